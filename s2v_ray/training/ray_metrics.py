"""Training records as metrics of Ray, which Ray's own Prometheus endpoint exports beside those of the cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ray.util.metrics import Gauge

from s2v_ray.training.loggers import Sample
from s2v_ray.training.trainer import SPEED

SPEED_METRICS = {
    "clips_per_second": "Clips per second over all workers.",
    "data_wait": "Share of the time that training waits for data.",
    "seconds_left": "Estimated time to the last step, seconds.",
    "skipped": "Batches that were skipped because a loss was not finite.",
}


class RayMetricsLogger:
    """Gauges with the tag ``run``: ``s2v_training_step``, ``s2v_training_clips_per_second`` and the like.

    ``s2v_training_scalar`` and ``s2v_training_validation`` have the tag ``name``: the losses and the figures of the
    validation. ``s2v_training_alarm`` is 1 for an alarm that is active, and 0 afterwards.
    """

    def __init__(self, run: str, start_step: int) -> None:  # noqa: ARG002  # gauges have no history to hide
        self.run = run
        self._step = Gauge("s2v_training_step", "Steps that are done.", ("run",))
        self._speed = {name: Gauge(f"s2v_training_{name}", about, ("run",)) for name, about in SPEED_METRICS.items()}
        tags = ("run", "name")
        self._scalar = Gauge("s2v_training_scalar", "A loss or another scalar of a training record.", tags)
        self._validation = Gauge("s2v_training_validation", "A figure of the last validation.", tags)
        self._alarm = Gauge("s2v_training_alarm", "Whether an alarm is active.", tags)
        self._alarms: set[str] = set()

    def record(self, record: Mapping[str, Any]) -> None:
        """See ``RunLogger``."""
        run = {"run": self.run}
        self._step.set(record["step"], run)
        for name, value in record.items():
            if name in self._speed:
                self._speed[name].set(value, run)
            elif name.startswith("val_"):
                self._validation.set(value, run | {"name": name.removeprefix("val_")})
            elif name not in ("step", "alarms"):
                self._scalar.set(value, run | {"name": name})
        if SPEED[0] in record:  # a training record, which names the active alarms
            active = set(record.get("alarms", ()))
            for alarm in active | self._alarms:
                self._alarm.set(float(alarm in active), run | {"name": alarm})
            self._alarms = active

    def samples(self, step: int, samples: Sequence[Sample]) -> None:
        """Samples are no metrics."""

    def close(self) -> None:
        """Ray exports what was set."""
