"""One optimizer over one module on many workers: the only file that knows DeepSpeed. One worker alone has nothing to share, and does without it.

What holds for every engine, at every ZeRO stage (each line was compared with plain torch; see tests/training):

- A player's losses are summed and ``backward`` is called once, then ``step``. Two ``backward`` before one ``step`` drop the
  first one's gradients at stages 1 and 2, unless the engine was made to ``accumulate``.
- The generator's loss goes through ``discriminators.module``, with the discriminators ``frozen``, never through the other
  engine's own forward.
- Gradient penalties need ``module(...)`` too, and stages 0 to 2.
- A parameter without a gradient counts as one with gradient 0: Adam's moments move it still. To leave a group where it is
  for a step, set its learning rate to 0.
"""

from __future__ import annotations

import functools
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

BUCKET_ELEMENTS = 25_000_000
"""Gradients reduced at once, elements (DeepSpeed's default, 5e8, would be 2 GB for each engine)."""


class Engine(Protocol):
    """What a training step may ask of the optimizer of one player."""

    module: Any  # the nn.Module it was made with
    device: torch.device

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Forward through the engine, under its autocast."""

    def backward(self, loss: Tensor) -> None:
        """Gradients of ``loss``, averaged over workers, added to those since the last step: at most ``accumulate`` times for each ``step``."""

    def step(self) -> None:
        """Clips, updates, and clears the gradients."""

    def discard(self) -> None:
        """Forgets the gradients since the last step, if any: as if there had been no ``backward``. All workers call it."""

    def set_lr(self, group: int | str, lr: float) -> None:
        """Sets the learning rate of a parameter group, by index or by its ``name``."""

    def autocast(self) -> AbstractContextManager[Any]:
        """The engine's autocast, for ``module(...)`` called directly."""

    def gathered(self) -> AbstractContextManager[Any]:
        """While inside, every worker sees all of ``module``'s weights (stage 3 splits them); read only. All workers enter."""

    @property
    def grad_norm(self) -> float | None:
        """Norm of the last step's gradients before clipping, or None at stage 0, which does not tell."""

    def snapshot(self) -> dict[str, Any]:
        """This worker's part of the state, as files: name -> content for ``torch.save``, in memory of its own. All workers call it."""

    def load(self, folder: str, *, reshape: bool = False) -> None:
        """Reads the files that ``snapshot`` gave on all workers. All workers call it, before the first step.

        Args:
            reshape: the files are of another number of workers.
        """


EngineFactory = Callable[..., Engine]
"""``make_engine`` or a stand-in with its signature."""

LONE_FILE = "engine.pt"
"""What ``LoneEngine`` saves."""


@dataclass(frozen=True)
class ByName:
    """State of an engine, whatever it was split into: all weights and buffers, and the optimizer's tensors of each trained parameter, some of them flat."""

    weights: dict[str, Tensor]
    moments: dict[str, dict[str, Tensor]]


class DeepSpeedEngine:
    """``Engine`` by DeepSpeed ZeRO; fp32 weights, bf16 only inside autocast."""

    def __init__(
        self, engine: Any, optimizer: torch.optim.Optimizer, names: list[str], bf16: bool, accumulate: int
    ) -> None:
        self._engine, self._optimizer = engine, optimizer  # DeepSpeed keeps the moments in the optimizer it was given
        self._names, self._rank = names, dist.get_rank()  # of the parameters, in the optimizer's order
        self._bf16 = bf16
        self._accumulate, self._gathered = accumulate, 0
        self.module = engine.module
        self.device = torch.device(engine.device)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._engine(*args, **kwargs)

    def backward(self, loss: Tensor) -> None:
        self._gathered = _one_more(self._gathered, self._accumulate)
        self._engine.backward(loss)

    def step(self) -> None:
        self._engine.step()
        self._gathered = 0

    def discard(self) -> None:
        if not self._gathered:
            return
        # Where gradients lie differs by stage and offload; a step clears them everywhere. This one moves nothing: its learning rates are 0, and the moments
        # are put back.
        rates, moments = [g["lr"] for g in self._optimizer.param_groups], copied(dict(self._optimizer.state))
        for g in self._optimizer.param_groups:
            g["lr"] = 0.0
        self.step()
        for g, rate in zip(self._optimizer.param_groups, rates, strict=True):
            g["lr"] = rate
        for p, state in self._optimizer.state.items():
            for name, value in state.items():
                before = moments.get(p, {}).get(name)
                value.zero_() if before is None else value.copy_(before)  # none before the first step

    def set_lr(self, group: int | str, lr: float) -> None:
        _set_lr(self._engine.optimizer.param_groups, group, lr)

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16)

    def gathered(self) -> AbstractContextManager[Any]:
        if self._engine.zero_optimization_stage() < 3:
            return nullcontext()
        import deepspeed

        gathered: AbstractContextManager[Any] = deepspeed.zero.GatheredParameters(list(self.module.parameters()))
        return gathered

    @property
    def grad_norm(self) -> float | None:
        norm = self._engine.get_global_grad_norm()
        return None if norm is None else float(norm)

    def snapshot(self) -> dict[str, Any]:
        # DeepSpeed composes its files with the other workers; only what it would write last is kept instead
        files: dict[str, Any] = {}
        writer = self._engine.checkpoint_engine
        writer.makedirs = lambda path, exist_ok=True: None
        writer.save = lambda state_dict, path: files.update({os.path.basename(path): copied(state_dict)})
        self._engine._copy_recovery_script = lambda path: None
        self._engine.save_checkpoint("snapshot", tag=".", save_latest=False)
        return files

    def load(self, folder: str, *, reshape: bool = False) -> None:
        if reshape or os.path.exists(os.path.join(folder, LONE_FILE)):
            self._adopt(_read_by_name(folder, self._names))
            return
        path, _ = self._engine.load_checkpoint(folder, tag=".")
        if path is None:
            raise ValueError(f"there is no engine state in {folder}")

    def _adopt(self, state: ByName) -> None:
        """Goes on from another engine's state: each worker takes its part of it, as its own stage splits it."""
        import deepspeed
        from deepspeed.utils import (
            safe_set_full_fp32_param,
            safe_set_full_optimizer_state,
            safe_set_local_fp32_param,
            safe_set_local_optimizer_state,
        )

        stage, zero = self._engine.zero_optimization_stage(), self._engine.optimizer
        own = dict(self.module.named_parameters())
        with deepspeed.zero.GatheredParameters(list(own.values()), modifier_rank=0) if stage == 3 else nullcontext():
            _copy_weights(self.module, state.weights)
        trained = [
            (own[name], state.weights[name], state.moments.get(name, {})) for name in self._names
        ]  # no moments: saved before the first step
        if stage == 0:
            for p, _, moments in trained:
                self._optimizer.state[p] = _for(p, moments)
            return
        for flat in zero.fp32_partitioned_groups_flat if stage == 3 else zero.single_partition_of_fp32_groups:
            # all parameters have taken the same steps; what else is per element is set below
            self._optimizer.state[flat] = {
                k: v.to(flat.device, copy=True) if v.dim() == 0 else torch.zeros_like(flat)
                for k, v in trained[0][2].items()
            }
        if stage < 3 and state.moments:
            zero._lazy_init_hp_params_optimizer_state()
        for p, weight, moments in trained:
            each = {name: value for name, value in moments.items() if value.dim() > 0}
            if stage == 3:
                size = p.ds_tensor.numel()
                weight, *values = (_part(value, size, self._rank) for value in (weight, *each.values()))
                safe_set_local_fp32_param(p, weight)
                for name, value in zip(each, values, strict=True):
                    safe_set_local_optimizer_state(p, value, name)
            else:
                safe_set_full_fp32_param(p, weight)
                for name, value in each.items():
                    safe_set_full_optimizer_state(p, value, name)


class LoneEngine:
    """``Engine`` for one worker, in plain torch: the same arithmetic, without DeepSpeed's own copies and its Python for each parameter."""

    def __init__(
        self, module: nn.Module, optimizer: torch.optim.Optimizer, bf16: bool, grad_clip: float, accumulate: int
    ) -> None:
        self.module, self.device = module, next(module.parameters()).device
        self._optimizer, self._bf16, self._grad_clip = optimizer, bf16, grad_clip
        self._accumulate, self._gathered = accumulate, 0
        self._parameters = [p for g in optimizer.param_groups for p in g["params"]]
        self._norm: Tensor | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self.autocast():
            return self.module(*args, **kwargs)

    def backward(self, loss: Tensor) -> None:
        self._gathered = _one_more(self._gathered, self._accumulate)
        loss.backward()

    def step(self) -> None:
        for p in self._parameters:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad  # as under ZeRO: Adam's moments go on
        self._norm = nn.utils.clip_grad_norm_(self._parameters, self._grad_clip or float("inf"))
        self._optimizer.step()
        self.discard()

    def discard(self) -> None:
        self._optimizer.zero_grad(set_to_none=True)
        self._gathered = 0

    def set_lr(self, group: int | str, lr: float) -> None:
        _set_lr(self._optimizer.param_groups, group, lr)

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16)

    def gathered(self) -> AbstractContextManager[Any]:
        return nullcontext()

    @property
    def grad_norm(self) -> float | None:
        return None if self._norm is None else float(self._norm)

    def snapshot(self) -> dict[str, Any]:
        moments = {
            name: self._optimizer.state[p] for name, p in self.module.named_parameters() if p in self._optimizer.state
        }
        return {LONE_FILE: copied({"weights": dict(self.module.state_dict()), "moments": moments})}

    def load(self, folder: str, *, reshape: bool = False) -> None:
        names = {p: name for name, p in self.module.named_parameters()}
        state = _read_by_name(folder, [names[p] for p in self._parameters])
        _copy_weights(self.module, state.weights)
        for p in self._parameters:
            if names[p] in state.moments:
                self._optimizer.state[p] = _for(p, state.moments[names[p]])


def make_engine(
    module: nn.Module,
    param_groups: Iterable[dict[str, Any]],
    *,
    lr: float,
    betas: tuple[float, float],
    weight_decay: float,
    zero_stage: int,
    bf16: bool,
    grad_clip: float,
    micro_batch: int,
    world_size: int,
    accumulate: int = 1,
    offload_optimizer: bool = False,
    offload_param: bool = False,
    lone: bool = True,
) -> Engine:
    """An engine over ``module``, moved to this worker's device and made equal on all workers.

    Parameters of shape [] become [1]: DeepSpeed cannot send them otherwise.

    Args:
        param_groups: as torch optimizers take them: ``params``, and optionally ``lr``, ``name``, ``weight_decay``.
        lr: learning rate of groups that name none.
        weight_decay: decoupled (AdamW); 0 gives plain Adam.
        zero_stage: 0 to 3.
        bf16: bf16 autocast in ``forward``; see ``has_bf16``.
        grad_clip: largest norm of all gradients of this engine together; 0 for no clipping.
        micro_batch: clips of one worker in a ``backward``.
        world_size: workers; torch.distributed must already connect them (one worker alone is set up here).
        accumulate: how often ``backward`` is called before ``step``, at most.
        offload_optimizer, offload_param: optimizer states (stages 1 to 3) and weights (stage 3) live in the CPU's memory.
        lone: one worker that offloads nothing does without DeepSpeed, whatever ``zero_stage`` is; False: with it.

    Raises:
        ValueError: the workers connected are not ``world_size`` (one worker alone need not be connected), or the stage cannot offload what it shall.
    """
    for what, offloaded, least in (("optimizer states", offload_optimizer, 1), ("weights", offload_param, 3)):
        if offloaded and zero_stage < least:
            raise ValueError(f"ZeRO stage {zero_stage} cannot offload {what}, stage {least} can")
    alone = lone and world_size == 1 and not (offload_optimizer or offload_param)
    if not alone:
        deepspeed = _deepspeed(world_size)
    elif dist.is_initialized():
        _check_connected(world_size)
    groups = [dict(g, params=list(g["params"])) for g in param_groups]
    for p in module.parameters():
        if p.dim() == 0:
            p.data = p.data.reshape(1)
    adam = functools.partial(torch.optim.AdamW, weight_decay=weight_decay) if weight_decay else torch.optim.Adam
    optimizer = adam(
        groups, lr=lr, betas=betas, fused=True
    )  # otherwise two more copies of the gradients, while a step lasts
    if alone:
        if torch.cuda.is_available():
            module.to(torch.device("cuda", torch.cuda.current_device()))  # as DeepSpeed does
        return LoneEngine(module, optimizer, bf16, grad_clip, accumulate)
    names = {p: name for name, p in module.named_parameters()}
    order = [names[p] for g in groups for p in g["params"]]
    config = engine_config(
        zero_stage=zero_stage, bf16=bf16, grad_clip=grad_clip, micro_batch=micro_batch, accumulate=accumulate
    )
    for name, offloaded in (("offload_optimizer", offload_optimizer), ("offload_param", offload_param)):
        if offloaded:
            config["zero_optimization"][name] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=config)
    engine.checkpoint_engine.load = _load_without_pickle
    return DeepSpeedEngine(engine, optimizer, order, bf16, accumulate)


def engine_config(
    *, zero_stage: int, bf16: bool, grad_clip: float, micro_batch: int, accumulate: int = 1
) -> dict[str, Any]:
    """DeepSpeed's config; everything whose default does not suit small models side by side is set."""
    return {
        "train_micro_batch_size_per_gpu": micro_batch,
        # DeepSpeed's own count of parts scales losses, and a part that is left out puts it out of step. Unmanaged, it sums what comes before ``step``.
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": accumulate == 1,
        "gradient_clipping": grad_clip,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "memory_efficient_linear": False,
        "zero_optimization": {
            "stage": zero_stage,
            "reduce_bucket_size": BUCKET_ELEMENTS,
            "allgather_bucket_size": BUCKET_ELEMENTS,
            # Stage 3: weights that are gathered are let go again; with the defaults, 1e9, a small model is never split while it computes.
            "stage3_max_live_parameters": BUCKET_ELEMENTS,
            "stage3_max_reuse_distance": BUCKET_ELEMENTS,
            "stage3_prefetch_bucket_size": BUCKET_ELEMENTS,
        },
        # The empty list keeps gradients in fp32 while they are averaged; only arithmetic inside forward is bf16.
        "torch_autocast": {"enabled": bf16, "dtype": "bfloat16", "lower_precision_safe_modules": []},
        "steps_per_print": 1_000_000_000,
    }


class NotFinite(ArithmeticError):
    """A loss is not finite on some worker; nothing was updated by it, on any."""


def check_finite(player: str, losses: Mapping[str, Tensor], engine: Engine) -> None:
    """To be called before ``engine.backward``, on all workers: one bad batch must not reach the weights, nor may the good parts of it.

    Raises:
        NotFinite: on all workers alike, if a loss of any is not finite; names those of this worker.
    """
    values = torch.stack([loss.detach().float() for loss in losses.values()])
    finite = values.isfinite()
    everywhere = finite.all().float()
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(everywhere, dist.ReduceOp.MIN)
    if not everywhere.item():
        engine.discard()
        bad = ", ".join(name for name, ok in zip(losses, finite.tolist(), strict=True) if not ok)
        raise NotFinite(f"{player}: {bad or 'on another worker'}")


def mean_over_parts(seen: Sequence[Mapping[str, Tensor | float]]) -> dict[str, Tensor | float]:
    """The scalars of a step from those of its equal parts, which all have the same names."""
    return {name: sum(part[name] for part in seen) / len(seen) for name in seen[0]}


@contextmanager
def frozen(module: nn.Module) -> Iterator[nn.Module]:
    """``module`` without gradients for its own parameters; gradients still pass through it to its inputs."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    for p in parameters:
        p.requires_grad_(False)
    try:
        yield module
    finally:
        for p in parameters:
            p.requires_grad_(True)


def has_bf16(device: torch.device) -> bool:
    """Whether bf16 arithmetic is native on ``device`` (on others it is emulated, and slower than fp32)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.13; older ones do not tell
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _deepspeed(world_size: int) -> Any:
    """Imports DeepSpeed and connects it to torch.distributed, quietly and without compiling anything."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ.setdefault("LOCAL_RANK", "0")
    for message in (
        ".*torch.jit.*",
        ".*_all_gather_base.*",
        ".*reduce_scatter_base.*",
        ".*is deprecated.*use.*torch.*instead.*",
    ):
        warnings.filterwarnings("ignore", message=message, category=FutureWarning)
    import deepspeed

    if not dist.is_initialized() and world_size == 1:
        dist.init_process_group(
            "nccl" if torch.cuda.is_available() else "gloo", store=dist.HashStore(), rank=0, world_size=1
        )
    _check_connected(world_size)
    # Built on CPU at first use, with g++ and ninja, for inference only: training averages gradients through gloo.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed()
    return deepspeed


def _check_connected(world_size: int) -> None:
    connected = dist.get_world_size() if dist.is_initialized() else 0
    if connected != world_size:
        raise ValueError(f"{world_size} workers were asked for, {connected} are connected")


def _one_more(gathered: int, accumulate: int) -> int:
    if gathered == accumulate:
        raise RuntimeError(
            f"backward was called more often before step than the {accumulate} times the engine was made for: gradients would be lost"
        )
    return gathered + 1


def _set_lr(groups: Sequence[dict[str, Any]], group: int | str, lr: float) -> None:
    chosen = [groups[group]] if isinstance(group, int) else [g for g in groups if g.get("name") == group]
    if not chosen:
        raise ValueError(f"no parameter group is named {group!r}")
    for g in chosen:
        g["lr"] = lr


def _for(p: Tensor, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """An optimizer's tensors in the shape, and on the device, of their parameter."""
    return {
        name: value.to(p.device, copy=True).view_as(p) if value.dim() else value.to(p.device, copy=True)
        for name, value in state.items()
    }


def _part(value: Tensor, size: int, rank: int) -> Tensor:
    """A worker's part of a parameter that stage 3 splits into flat parts of ``size``, the last one padded."""
    part = value.flatten()[rank * size : (rank + 1) * size]
    return torch.cat([part, part.new_zeros(size - len(part))])


@torch.no_grad()
def _copy_weights(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    own = module.state_dict()
    for name, value in weights.items():
        own[name].copy_(value.view_as(own[name]))


def copied(value: Any) -> Any:
    """``value`` with copies of all tensors, on the CPU: training changes the originals while the copies are written."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return type(value)((k, copied(v)) for k, v in value.items())
    if isinstance(value, list) or type(value) is tuple:
        return type(value)(copied(v) for v in value)
    return value


def _read_by_name(folder: str, names: Sequence[str]) -> ByName:
    """What any engine saved, on any number of workers and at any stage.

    Args:
        names: of the trained parameters, in the optimizer's order.
    """
    if os.path.exists(lone := os.path.join(folder, LONE_FILE)):
        return ByName(**torch.load(lone, map_location="cpu", weights_only=True))
    saved = _load_without_pickle(
        os.path.join(folder, min(f for f in os.listdir(folder) if f.endswith("model_states.pt"))), "cpu"
    )
    if saved["optimizer"] is not None:  # stage 0: every worker has all
        return ByName(saved["module"], {names[i]: state for i, state in saved["optimizer"]["state"].items()})
    weights = {
        name: value for name, value in saved["module"].items() if value.numel()
    }  # stage 3 leaves no trace of those that no optimizer moves
    moments = {}
    with tempfile.TemporaryDirectory() as universal, _loading_without_pickle():
        _to_universal(folder, universal)
        shared = torch.load(os.path.join(universal, "zero", "optimizer_state.pt")).get("optimizer_state_dict")
        steps = (
            {"step": torch.as_tensor(shared["state"][0]["step"])} if shared else {}
        )  # stage 3 keeps it there, the others beside each parameter
        for name in names:
            folder = os.path.join(universal, "zero", name)
            read = {file.removesuffix(".pt"): torch.load(os.path.join(folder, file)) for file in os.listdir(folder)}
            found = {key: value["param"] if isinstance(value, dict) else value for key, value in read.items()}
            weights[name] = found.pop("fp32")
            moments[name] = steps | found
    return ByName(weights, moments)


def _to_universal(folder: str, target: str) -> None:
    """DeepSpeed's files of any number of workers -> one file for each parameter and moment, which any number can read."""
    from deepspeed.checkpoint import ds_to_universal

    settings = {
        "num_extract_workers": 1,
        "num_merge_workers": 1,
        "keep_temp_folder": False,
        "strict": True,
        "inject_missing_state": True,
    }
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        # the target's parent gets a file "latest_universal": a folder of its own
        ds_to_universal.main(SimpleNamespace(input_folder=folder, output_folder=os.path.join(target, "."), **settings))


@contextmanager
def _loading_without_pickle() -> Iterator[None]:
    """While inside, ``torch.load`` is ``_load_without_pickle``, whatever DeepSpeed asks of it."""
    original = torch.load
    torch.load = lambda f, map_location=None, **_: _load_without_pickle(f, map_location, original)
    try:
        yield
    finally:
        torch.load = original


def _load_without_pickle(path: Any, map_location: Any = None, load: Callable[..., Any] = torch.load) -> Any:
    """DeepSpeed's own reader unpickles anything; this one accepts tensors, plain values and a few classes of DeepSpeed and Python."""
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    with torch.serialization.safe_globals([LossScaler, ZeroStageEnum, fragment_address]):
        return load(path, map_location=map_location, weights_only=True)
