"""Requirements of a training run, computed from what was measured on a small one. Needs no Ray and starts nothing.

A step of n workers takes the time to compute plus the time to average gradients. Decoding, the network and S3 have
rates of their own; the smallest rate is that of the run, and its resource the bottleneck. Lost nodes and
checkpoints add to the hours. All of it is computed from measurements and from ``Assumptions``, which every report
lists.

The batch of a worker is constant (weak scaling): more GPUs give larger steps and fewer of them, and the same number
of clips. The effect on quality is not predicted.

``inputs`` reads measurements, ``memory``, ``speed``, ``failures`` and ``cost`` are the models, ``report`` prints
and plots.
"""

from s2v_ray.cluster.planning.cost import Comparison, Estimate, Projection, compare, estimate, project
from s2v_ray.cluster.planning.failures import daly_interval, overhead, simulate, young_interval
from s2v_ray.cluster.planning.inputs import (
    Assumptions,
    CorpusSize,
    Measurement,
    PlanError,
    PlanInputs,
    Price,
    make_inputs,
    read_corpus_size,
    read_measurement,
)
from s2v_ray.cluster.planning.memory import (
    EngineParameters,
    ZeroStage,
    checkpoint_bytes,
    count_parameters,
    memory_per_rank,
    uses_plain_torch,
)
from s2v_ray.cluster.planning.report import Plan, format_plan, make_plan, plot_plan
from s2v_ray.cluster.planning.speed import resource_rates, ring_seconds, step_seconds

__all__ = [
    "Assumptions",
    "Comparison",
    "CorpusSize",
    "EngineParameters",
    "Estimate",
    "Measurement",
    "Plan",
    "PlanError",
    "PlanInputs",
    "Price",
    "Projection",
    "ZeroStage",
    "checkpoint_bytes",
    "compare",
    "count_parameters",
    "daly_interval",
    "estimate",
    "format_plan",
    "make_inputs",
    "make_plan",
    "memory_per_rank",
    "overhead",
    "plot_plan",
    "project",
    "read_corpus_size",
    "read_measurement",
    "resource_rates",
    "ring_seconds",
    "simulate",
    "step_seconds",
    "uses_plain_torch",
    "young_interval",
]
