"""Engines: the optimizer of one player on one worker (plain torch) or on many (DeepSpeed ZeRO)."""

from s2v_ray.training.engine.base import (
    Engine,
    EngineConfig,
    EngineFactory,
    NonFiniteLossError,
    OptimizerConfig,
    ParamGroup,
    check_finite,
    copy_to_cpu,
    frozen,
    has_bf16,
)
from s2v_ray.training.engine.factory import make_engine, make_optimizer

__all__ = [
    "Engine",
    "EngineConfig",
    "EngineFactory",
    "NonFiniteLossError",
    "OptimizerConfig",
    "ParamGroup",
    "check_finite",
    "copy_to_cpu",
    "frozen",
    "has_bf16",
    "make_engine",
    "make_optimizer",
]
