"""Checks of devices without an accelerator: the device "meta" stands for one, and a mode watches every operation.

Operations on meta tensors compute shapes and types only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ACCELERATOR = torch.device("meta")
COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
"""Operations that may have tensors of two devices."""


class MixedDevicesError(AssertionError):
    """An operation has tensors of two devices."""


class DeviceWatch(TorchDispatchMode):
    """Fails on an operation with tensors of two devices, and counts what makes the host wait for the accelerator.

    Scalars on the CPU may be combined with tensors of any device, as in torch itself. A scalar that is read from the
    accelerator (``item``) is 1 or True; a copy to the CPU is 0.

    Attributes:
        synchronizations: names of the operations that made the host wait.
    """

    def __init__(self) -> None:
        super().__init__()
        self.synchronizations: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if func is torch.ops.aten._local_scalar_dense.default and tensors[0].device == ACCELERATOR:
            self.synchronizations.append(str(func))
            return True if tensors[0].dtype == torch.bool else 1
        if func is COPIES[0] and tensors[0].device == ACCELERATOR and _device(kwargs) == "cpu":
            self.synchronizations.append(str(func))
            return torch.zeros(tensors[0].shape, dtype=kwargs.get("dtype") or tensors[0].dtype)
        devices = {x.device for x in tensors if x.dim() > 0 or x.device == ACCELERATOR}
        if len(devices) > 1 and func not in COPIES:
            raise MixedDevicesError(f"{func}: {', '.join(sorted(map(str, devices)))}")
        return func(*args, **kwargs)


def _device(kwargs: dict[str, Any]) -> str:
    device = kwargs.get("device")
    return "" if device is None else torch.device(device).type


@contextmanager
def watched() -> Iterator[DeviceWatch]:
    """Watch all operations; without autocast, which does not know the device."""
    with mock.patch.object(torch, "autocast", lambda *_, **__: nullcontext()), DeviceWatch() as watch:
        yield watch
