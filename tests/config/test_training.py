"""Sections about training."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from s2v_ray.config import DiscriminatorsConfig, GanConfig, LogConfig, ParallelConfig, ScheduleConfig


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        (GanConfig, {"frames": 9, "speech_frames": 8}, "gan.speech_frames must be at least gan.frames"),
        (GanConfig, {"frames": 2}, "gan.frames must be at least 3 for gan.discriminators.motion"),
        (ParallelConfig, {"workers": 2, "min_workers": 3}, "min_workers=3 must not exceed parallel.workers=2"),
        (
            ParallelConfig,
            {"offload_optimizer": True, "zero_generator": 0},
            "set parallel.zero_generator to 1 or higher",
        ),
        (ParallelConfig, {"offload_param": True}, "offload_param needs parallel.zero_generator=3, not 1"),
        (LogConfig, {"keep_best": "beauty"}, "keep_best=beauty is no validation metric"),
        (LogConfig, {"keep_best": "l1"}, "needs a validation at each checkpoint"),
        (
            LogConfig,
            {"keep_best": "l1", "validate_every": 300, "checkpoint_every": 500},
            "divides log.checkpoint_every",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused(section: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        section.model_validate(values)


def test_schedules_of_plugins_come_after_the_built_in_ones() -> None:
    extra = ScheduleConfig(weight=0.5)
    found = dict(DiscriminatorsConfig(extra={"colour": extra}).schedules())
    assert list(found) == ["frame", "mouth", "motion", "sync", "emotion", "colour"] and found["colour"] is extra


@pytest.mark.parametrize(("workers", "least", "counts"), [(4, 0, [4]), (4, 2, [2, 3, 4])])
def test_an_elastic_run_has_several_worker_counts(workers: int, least: int, counts: list[int]) -> None:
    assert list(ParallelConfig(workers=workers, min_workers=least).worker_counts) == counts
