"""Engine state by parameter name, independent of engine, ZeRO stage and number of workers."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from s2v_ray.training.engine import deepspeed_api

TORCH_FILE = "engine.pt"
"""File that ``TorchEngine`` saves."""


@dataclass(frozen=True)
class FullState:
    """State of an engine, not sharded.

    Attributes:
        weights: all weights and buffers by name.
        moments: the optimizer's tensors of each trained parameter, by parameter name; some of them are flattened.
    """

    weights: dict[str, Tensor]
    moments: dict[str, dict[str, Tensor]]


def read_full_state(folder: str, names: Sequence[str]) -> FullState:
    """Read what any engine saved, on any number of workers and at any stage.

    Args:
        folder: local folder with the files of all workers.
        names: names of the trained parameters, in the optimizer's order.
    """
    root = Path(folder)
    if (file := root / TORCH_FILE).exists():
        return FullState(**torch.load(file, map_location="cpu", weights_only=True))
    first = min(file for file in root.iterdir() if file.name.endswith("model_states.pt"))
    saved = deepspeed_api.load_without_pickle(first, "cpu")
    if saved["optimizer"] is not None:  # stage 0: every worker has everything
        return FullState(saved["module"], {names[i]: state for i, state in saved["optimizer"]["state"].items()})
    # Stage 3 saves empty tensors for parameters that no optimizer updates.
    weights = {name: value for name, value in saved["module"].items() if value.numel()}
    return _read_sharded(folder, names, weights)


def _read_sharded(folder: str, names: Sequence[str], weights: dict[str, Tensor]) -> FullState:
    """Read ZeRO's shards through DeepSpeed's universal checkpoint: one file for each parameter and moment."""
    moments = {}
    with tempfile.TemporaryDirectory() as universal, deepspeed_api.loading_without_pickle():
        deepspeed_api.convert_to_universal(folder, universal)
        zero = Path(universal) / "zero"
        shared = torch.load(zero / "optimizer_state.pt").get("optimizer_state_dict")
        # Stage 3 keeps the step count there, the other stages beside each parameter.
        steps = {"step": torch.as_tensor(shared["state"][0]["step"])} if shared else {}
        for name in names:
            read = {file.name.removesuffix(".pt"): torch.load(file) for file in (zero / name).iterdir()}
            found = {key: value["param"] if isinstance(value, dict) else value for key, value in read.items()}
            weights[name] = found.pop("fp32")
            moments[name] = steps | found
    return FullState(weights, moments)


@torch.no_grad()
def copy_weights(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy weights and buffers into ``module`` in place."""
    own = module.state_dict()
    for name, value in weights.items():
        own[name].copy_(value.view_as(own[name]))


def optimizer_state_like(p: Tensor, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy an optimizer's tensors to the shape and device of their parameter."""
    moved = {name: value.to(p.device, copy=True) for name, value in state.items()}
    return {name: value.view_as(p) if value.dim() else value for name, value in moved.items()}


def shard_of(value: Tensor, size: int, rank: int) -> Tensor:
    """Cut out a worker's part of a parameter that stage 3 shards into flat, padded parts of ``size`` elements."""
    part = value.flatten()[rank * size : (rank + 1) * size]
    return torch.cat([part, part.new_zeros(size - len(part))])
