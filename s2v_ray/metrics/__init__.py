"""Metrics: functions of frames, codes and distances, each with its formula and source, and the tables that name them.

``clip_metrics.METRICS`` is the table of evaluation: one value for each clip and row. ``VALIDATION`` is the table of
what training measures on the validation split; sweeps rank trials and checkpoints are kept by its entries.

An outside package adds a metric of evaluation in one module, without a change to this package::

    from s2v_ray.metrics import Metric
    from s2v_ray.metrics.clip_metrics import MetricInput, register

    def flicker(clip: MetricInput) -> float:
        return float(abs(clip.frames.mean((1, 2, 3)) - clip.real.mean((1, 2, 3))).mean())

    register("flicker", Metric("flicker", "lower", "levels", 2, "mean difference of brightness"), flicker)

The recipe imports that module when it names it: ``plugins: [my_package.metrics]``. The metric then appears in
``results.json``, in the report and in the table on the terminal.
"""

from s2v_ray.metrics.base import Interval, Metric, bootstrap_mean
from s2v_ray.metrics.validation import VALIDATION

__all__ = ["VALIDATION", "Interval", "Metric", "bootstrap_mean"]
