"""Training records as gauges of Ray."""

from __future__ import annotations

from typing import Any

import pytest

from s2v_ray.training import ray_metrics
from s2v_ray.training.loggers import LOGGERS

RUN = "s3://b/run"
VALUES: dict[tuple[str, str], float] = {}


class RecordingGauge:
    def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
        assert description.endswith(".")
        self.name, self.tag_keys = name, tag_keys

    def set(self, value: float, tags: dict[str, str]) -> None:
        assert set(tags) == set(self.tag_keys) and tags["run"] == RUN
        VALUES[self.name.removeprefix("s2v_training_"), tags.get("name", "")] = value


@pytest.fixture
def logger(monkeypatch: pytest.MonkeyPatch) -> Any:
    VALUES.clear()
    monkeypatch.setattr(ray_metrics, "Gauge", RecordingGauge)
    return LOGGERS["ray"](RUN, 0)


def test_every_entry_of_a_record_is_a_gauge(logger: Any) -> None:
    logger.record({"step": 50, "loss": 0.5, "clips_per_second": 6.0, "data_wait": 0.1, "seconds_left": 9.0})
    assert VALUES == {
        ("step", ""): 50,
        ("scalar", "loss"): 0.5,
        ("clips_per_second", ""): 6.0,
        ("data_wait", ""): 0.1,
        ("seconds_left", ""): 9.0,
    }


def test_validations_and_alarms(logger: Any) -> None:
    logger.record({"step": 50, "clips_per_second": 6.0, "alarms": ["sync"]})
    assert VALUES["alarm", "sync"] == 1.0
    logger.record({"step": 50, "val_psnr": 21.0})
    assert VALUES["validation", "psnr"] == 21.0
    assert VALUES["alarm", "sync"] == 1.0, "a validation does not state the alarms"
    logger.record({"step": 100, "clips_per_second": 6.0})
    assert VALUES["alarm", "sync"] == 0.0
    logger.samples(100, [])
    logger.close()


def test_it_works_without_a_cluster() -> None:
    LOGGERS["ray"](RUN, 0).record({"step": 1, "loss": 0.5})
