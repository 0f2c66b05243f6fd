"""metrics.jsonl, samples, and experiment loggers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from s2v_ray.training.loggers import (
    LOGGERS,
    MetricsFile,
    RunLoggers,
    Sample,
    TensorBoardLogger,
    picture_of,
    register_logger,
)
from tests.helpers.logs import logged


def read(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def sample(frames: int = 10) -> Sample:
    real = np.arange(frames, dtype=np.uint8)[:, None, None, None].repeat(32, 1).repeat(32, 2).repeat(3, 3)
    return Sample("clip", real + 100, real, np.zeros(640 * frames, np.float32))


def test_a_resumed_run_drops_later_records(tmp_path: Path) -> None:
    first = MetricsFile(str(tmp_path), 0)
    for step in (2, 4, 6):
        first.append({"step": step, "loss": 1.0})
    first.close()
    second = MetricsFile(str(tmp_path), 4)
    second.append({"step": 6, "loss": 0.5})
    second.close()
    assert read(tmp_path) == [{"step": 2, "loss": 1.0}, {"step": 4, "loss": 1.0}, {"step": 6, "loss": 0.5}]


def test_a_validation_is_a_record_beside_that_of_training(tmp_path: Path) -> None:
    file = MetricsFile(str(tmp_path), 0)
    assert not file.has_validation
    for record in ({"step": 2, "loss": 1.0}, {"step": 2, "val_l1": 0.3}, {"step": 2, "val_l1": 0.2}):
        file.append(record)
    file.close()
    assert file.has_validation
    assert read(tmp_path) == [{"step": 2, "loss": 1.0}, {"step": 2, "val_l1": 0.2}]


def test_a_picture_has_a_row_of_real_and_one_of_generated_frames() -> None:
    picture = picture_of([sample()])
    assert picture.shape == (64, 8 * 32, 3)
    assert picture[0, ::32, 0].tolist() == [0, 1, 3, 4, 5, 6, 8, 9]
    assert (picture[32, ::32, 0] - picture[0, ::32, 0]).tolist() == [100] * 8


def test_tensorboard_groups_training_and_validation(tmp_path: Path) -> None:
    board = TensorBoardLogger(str(tmp_path), 0)
    board.record({"step": 2, "loss": 1.5, "alarms": ["not a number"]})
    board.record({"step": 2, "val_l1": 0.25})
    board.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"training/loss", "validation/l1"}
    assert [e.value for e in events.Scalars("validation/l1")] == [0.25]


@pytest.fixture
def failing() -> Iterator[None]:
    @register_logger("failing")
    class Failing:
        def __init__(self, run: str, start_step: int) -> None: ...

        def record(self, record: Mapping[str, Any]) -> None:
            raise RuntimeError("no answer")

        def samples(self, step: int, samples: Sequence[Sample]) -> None:
            raise RuntimeError("no answer")

        def close(self) -> None: ...

    yield
    del LOGGERS["failing"]


def test_a_logger_that_fails_is_reported_once_and_samples_are_still_written(tmp_path: Path, failing: None) -> None:
    with logged() as lines:
        loggers = RunLoggers(str(tmp_path), 0, ["failing"])
        for step in (1, 2, 3):
            loggers.record({"step": step})
        loggers.samples(3, [sample()])
        loggers.close()
    assert lines == ["loggers or samples could not be written (no answer): training continues"]
    assert [p.name for p in (tmp_path / "samples").iterdir()] == ["step-00000003-clip.mp4"]


def test_an_unknown_logger_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no logger 'comet'; known: tensorboard"):
        RunLoggers(str(tmp_path), 0, ["comet"])
