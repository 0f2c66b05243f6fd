"""What a training step uses of the optimizer of one player (student, generator, discriminators), and helpers around it.

Rules that hold for every engine at every ZeRO stage (each was compared with plain torch, see
``tests/training/engine``):

- Sum a player's losses and call ``backward`` once, then ``step``. Two calls of ``backward`` before one ``step`` drop
  the gradients of the first at stages 1 and 2, unless the engine was made to ``accumulate``.
- Compute the generator's loss through ``discriminators.module`` with the discriminators ``frozen``, never through the
  forward of the other engine.
- Gradient penalties need ``module(...)`` as well, and stages 0 to 2.
- A parameter without a gradient is treated as if its gradient were 0, so Adam's moments still move it. To exclude a
  parameter group from a step, set its learning rate to 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from s2v_ray.config import ParallelConfig
from s2v_ray.training.engine.state import Piece, SavedState

ParamGroup = dict[str, Any]
"""As torch optimizers take it: ``params``, and optionally ``lr``, ``name``, ``weight_decay``."""


@dataclass(frozen=True)
class OptimizerConfig:
    """Adam of one engine.

    Attributes:
        lr: learning rate of parameter groups that name none.
        betas: decay rates of the moments.
        weight_decay: decoupled (AdamW); 0 gives plain Adam.
        fused: whether the fused kernel is used; otherwise a step holds two more copies of the gradients.
    """

    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    fused: bool = True


@dataclass(frozen=True)
class EngineConfig:
    """Settings that all engines of a worker share.

    Attributes:
        world_size: number of workers; torch.distributed must connect them already, except a single worker.
        micro_batch: clips of one worker in one ``backward``.
        bf16: bf16 autocast in ``forward``, see ``has_bf16``.
        grad_clip: largest norm of all gradients of an engine together; 0 for no clipping.
        accumulate: largest number of ``backward`` calls before ``step``.
        offload_optimizer: keep optimizer states in CPU memory (stages 1 to 3).
        plain_torch: whether a single worker that offloads nothing trains without DeepSpeed, at any stage.
    """

    world_size: int = 1
    micro_batch: int = 1
    bf16: bool = False
    grad_clip: float = 0.0
    accumulate: int = 1
    offload_optimizer: bool = False
    plain_torch: bool = True

    @classmethod
    def from_recipe(cls, parallel: ParallelConfig, batch: int, world_size: int, device: torch.device) -> EngineConfig:
        """Make the settings of a worker on ``device`` for ``batch`` clips over all workers."""
        return cls(
            world_size=world_size,
            micro_batch=-(-batch // (world_size * parallel.accumulate)),  # the largest one
            bf16=parallel.bf16 == "on" or (parallel.bf16 == "auto" and has_bf16(device)),
            grad_clip=parallel.grad_clip,
            accumulate=parallel.accumulate,
            offload_optimizer=parallel.offload_optimizer,
        )


class Engine(Protocol):
    """Optimizer of one player. All workers call every method equally often."""

    module: Any
    """The ``nn.Module`` that it was made for."""
    device: torch.device

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the forward pass through the engine, under its autocast."""

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of ``loss``, averaged over workers, to those since the last step."""

    def step(self) -> None:
        """Clip the gradients, update the parameters and clear the gradients."""

    def discard_gradients(self) -> None:
        """Clear the gradients since the last step without an update. All workers call it."""

    def set_lr(self, group: int | str, lr: float) -> None:
        """Set the learning rate of a parameter group, given by index or by its ``name``."""

    def set_betas(self, betas: tuple[float, float]) -> None:
        """Set Adam's decay rates for all parameter groups."""

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the engine's autocast, for direct calls of ``module(...)``."""

    def gathered_parameters(self) -> AbstractContextManager[Any]:
        """Return a context in which every worker can read all weights of ``module`` (stage 3 shards them)."""

    @property
    def grad_norm(self) -> float | None:
        """Norm of the last step's gradients before clipping; None at stage 0, which does not report it."""

    def own_weights(self) -> dict[str, Piece]:
        """Return the piece of each trained parameter that this worker saves, by the parameter's name; no copies."""

    def snapshot(self) -> dict[str, Piece]:
        """Return copies of this worker's pieces of weights, buffers and moments (``engine.state``)."""

    def load(self, saved: SavedState) -> None:
        """Continue from what ``snapshot`` gave on any number of workers, at any stage; before the first step."""


class EngineFactory(Protocol):
    """``make_engine`` with its ``EngineConfig`` bound, or a test's replacement."""

    def __call__(
        self,
        module: nn.Module,
        param_groups: Iterable[ParamGroup],
        optimizer: OptimizerConfig,
        *,
        zero_stage: int = 0,
        offload_param: bool = False,
    ) -> Engine:
        """Make an engine for ``module``."""


class NonFiniteLossError(ArithmeticError):
    """A loss is not finite on some worker. No parameter was updated by it on any worker."""


def check_finite(player: str, losses: Mapping[str, Tensor], engine: Engine) -> None:
    """Check the losses of a player before ``engine.backward``. All workers call it.

    If one micro-batch is rejected, the gradients of the earlier ones of the same step are discarded as well.

    Raises:
        NonFiniteLossError: on all workers, if a loss on any of them is not finite; names those of this worker.
    """
    values = torch.stack([loss.detach().float() for loss in losses.values()])
    finite = values.isfinite()
    everywhere = finite.all().float()
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(everywhere, dist.ReduceOp.MIN)
    if not everywhere.item():
        engine.discard_gradients()
        bad = ", ".join(name for name, ok in zip(losses, finite.tolist(), strict=True) if not ok)
        raise NonFiniteLossError(f"{player}: {bad or 'on another worker'}")


@contextmanager
def frozen(module: nn.Module) -> Iterator[nn.Module]:
    """Disable gradients for the parameters of ``module``; gradients still flow through it to its inputs."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    for p in parameters:
        p.requires_grad_(False)
    try:
        yield module
    finally:
        for p in parameters:
            p.requires_grad_(True)


def has_bf16(device: torch.device) -> bool:
    """Whether ``device`` has native bf16 arithmetic. Emulated bf16 is slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # since torch 2.13
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def copy_to_cpu(value: Any) -> Any:
    """Copy ``value`` with all tensors on the CPU, so that it can be written while training changes the originals."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return type(value)((k, copy_to_cpu(v)) for k, v in value.items())
    if isinstance(value, list) or type(value) is tuple:
        return type(value)(copy_to_cpu(v) for v in value)
    return value


def check_connected(world_size: int) -> None:
    """Check that torch.distributed connects ``world_size`` workers.

    Raises:
        ValueError: it connects another number.
    """
    connected = dist.get_world_size() if dist.is_initialized() else 0
    if connected != world_size:
        raise ValueError(f"{world_size} workers were requested, {connected} are connected")


def set_group_lr(groups: Sequence[ParamGroup], group: int | str, lr: float) -> None:
    """Set the learning rate of the group with this index or name.

    Raises:
        ValueError: no group has this name.
    """
    chosen = [groups[group]] if isinstance(group, int) else [g for g in groups if g.get("name") == group]
    if not chosen:
        raise ValueError(f"no parameter group is named {group!r}")
    for g in chosen:
        g["lr"] = lr


class BackwardCounter:
    """Counts the ``backward`` calls since the last step.

    Args:
        limit: largest number of calls before a step.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.pending = limit, 0

    def add(self) -> None:
        """Count one call.

        Raises:
            RuntimeError: there were ``limit`` calls already; gradients would be lost.
        """
        if self.pending == self.limit:
            raise RuntimeError(
                f"backward was called more often before step than the {self.limit} times the engine was made for: "
                "gradients would be lost"
            )
        self.pending += 1

    def reset(self) -> None:
        """Start a new step."""
        self.pending = 0
