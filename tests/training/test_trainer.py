"""The trainer with a toy task: progress, metrics, resume, NaN."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from s2v_ray import storage
from s2v_ray.clip import ClipBatch
from s2v_ray.config import LogConfig
from s2v_ray.training import checkpoint, lease
from s2v_ray.training.engine import EngineConfig, OptimizerConfig, check_finite
from s2v_ray.training.loggers import Sample
from s2v_ray.training.trainer import DataSources, Hooks, LoopConfig, Trainer, TrainingDivergedError
from tests.helpers.logs import logged
from tests.helpers.plain_engine import make_plain_engine


class ToyTask:
    """Fits a line; ``seen`` counts steps, ``nan_at`` makes the loss of some NaN."""

    alarms = ()
    diagnostics: frozenset[str] = frozenset()

    def __init__(self, nan_at: Iterable[int] = ()) -> None:
        torch.manual_seed(0)
        module = nn.Linear(4, 1)
        optimizer = OptimizerConfig(0.05, (0.9, 0.99))
        self.engine = make_plain_engine(module, [{"params": module.parameters()}], optimizer, EngineConfig())
        self.sharded = {"toy": self.engine}
        self.seen, self.nan_at = 0, set(nan_at)
        self.note = ""
        self.exported: dict[str, float] | None = None

    def step(self, batch: ClipBatch, step: int) -> dict[str, Any]:
        x = batch.speech[:, :4] + 0.01 * torch.randn(2, 4)
        loss = (self.engine(x) - x.sum(1, keepdim=True)).square().mean()
        if step in self.nan_at:
            loss = loss * float("nan")
        check_finite("toy", {"loss": loss}, self.engine)
        self.engine.backward(loss)
        self.engine.step()
        self.seen += 1
        return {"loss": loss.detach(), "odd": 1.0} if step % 2 else {"loss": loss.detach()}

    def state(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state(self, state: dict[str, Any]) -> None:
        self.seen = state["seen"]

    def validate(self, batches: Iterable[ClipBatch]) -> dict[str, float]:
        torch.rand(3)  # must not change the random numbers of training
        return {"clips": float(sum(len(b.speech) for b in batches)), "seen": float(self.seen)}

    def samples(self, batch: ClipBatch) -> list[Sample]:
        frames = np.full((10, 32, 32, 3), self.seen, np.uint8)
        return [Sample("clip", frames, frames + 100, np.zeros(6400, np.float32))]

    def export(self, run: str, metrics: dict[str, float]) -> None:
        self.exported = metrics


def toy_batches(start: int) -> Iterator[ClipBatch]:
    step = start
    while True:
        speech = torch.randn(2, 640, generator=torch.Generator().manual_seed(step))
        empty = torch.zeros(2, 1, 1, 1, 3, dtype=torch.uint8)
        index, true = torch.zeros(2, 1, dtype=torch.long), torch.ones(2, 1, dtype=torch.bool)
        yield ClipBatch(
            frames=empty, speech=speech, index=index, consecutive=true[:, 0], speech_mask=true, references=empty
        )
        step += 1


LOG = LogConfig(log_every=2, checkpoint_every=4, keep_checkpoints=2)


def run(
    task: ToyTask,
    folder: Path,
    steps: int,
    lines: list[str] | None = None,
    *,
    log: LogConfig = LOG,
    begin_from: str = "",
    hooks: Hooks | None = None,
    **data: Any,
) -> dict[str, Any]:
    with logged() as said, lease.held(str(folder)) as token:
        config = LoopConfig(str(folder), token, "toy", steps, 2, log, torch.device("cpu"), begin_from)
        try:
            return Trainer(task, DataSources(toy_batches, **data), config, hooks).run()
        finally:
            if lines is not None:
                lines += said


def test_lines_metrics_validation_and_export(tmp_path: Path) -> None:
    lines: list[str] = []
    reported: list[dict[str, float]] = []
    task = ToyTask()
    torch.manual_seed(1)
    result = run(task, tmp_path, 7, lines, validation=lambda: [next(toy_batches(0))] * 3, hooks=Hooks(reported.append))
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records] == [2, 4, 6, 7, 7] == [r["step"] for r in reported]
    assert records[0]["odd"] == 1.0 and "odd" not in records[3]  # averaged over the steps that have it
    assert lines[0].startswith("toy 2/7  loss ") and "clips/s" in lines[0] and "s left" in lines[0]
    assert task.exported == {"clips": 6.0, "seen": 7.0}
    assert result["clips"] == 6.0 and result["step"] == 7
    found = checkpoint.latest(str(tmp_path))
    assert found is not None and found.step == 7


def test_validation_beside_training_is_recorded_and_leaves_no_trace(tmp_path: Path) -> None:
    plain, validated = ToyTask(), ToyTask()
    validated.note = "validation leaves out sync"
    torch.manual_seed(5)
    run(plain, tmp_path / "plain", 8)
    torch.manual_seed(5)
    lines: list[str] = []
    reported: list[dict[str, float]] = []
    log = LogConfig(log_every=2, checkpoint_every=4, validate_every=3)
    settings: dict[str, Any] = {"validation": lambda: [next(toy_batches(0))], "log": log}
    run(validated, tmp_path / "validated", 8, lines, hooks=Hooks(reported.append), **settings)
    torch.testing.assert_close(validated.engine.module.state_dict(), plain.engine.module.state_dict(), rtol=0, atol=0)
    records = [json.loads(line) for line in (tmp_path / "validated" / "metrics.jsonl").read_text().splitlines()]
    assert records == reported
    assert [r for r in records if "val_seen" in r] == [
        {"step": s, "val_clips": 2.0, "val_seen": float(s)} for s in (3, 6, 8)
    ]
    assert [r["step"] for r in records] == [2, 3, 4, 6, 6, 8, 8]
    assert (
        sum("validation leaves out sync" in line for line in lines) == 1
        and "toy validation at step 3: clips 2.0000  seen 3.0000" in lines
    )
    run(validated, tmp_path / "validated", 8, lines, **settings)  # a finished run validates again, and is written once
    assert [
        json.loads(line)["step"] for line in (tmp_path / "validated" / "metrics.jsonl").read_text().splitlines()
    ] == [2, 3, 4, 6, 6, 8, 8]


def test_a_run_that_was_cut_off_continues_exactly(tmp_path: Path) -> None:
    whole, first, second = ToyTask(), ToyTask(), ToyTask()
    torch.manual_seed(5)
    run(whole, tmp_path / "whole", 12)
    torch.manual_seed(5)
    with pytest.raises(KeyboardInterrupt):
        run(first, tmp_path / "cut", 12, hooks=Hooks(_interrupt_at(10)))
    torch.manual_seed(99)  # the checkpoint's generator counts, not this
    lines: list[str] = []
    run(second, tmp_path / "cut", 12, lines)
    assert lines[0] == "toy continues from the checkpoint of step 8"
    assert second.seen == 12
    torch.testing.assert_close(second.engine.module.state_dict(), whole.engine.module.state_dict(), rtol=0, atol=0)
    steps = [json.loads(line)["step"] for line in (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [2, 4, 6, 8, 10, 12]


def test_events_and_tagged_samples_are_written(tmp_path: Path) -> None:
    log = LogConfig(log_every=2, checkpoint_every=4, validate_every=2, samples_every=3)
    run(
        ToyTask(),
        tmp_path,
        4,
        log=log,
        validation=lambda: [next(toy_batches(0))],
        samples=lambda: next(toy_batches(0)),
    )
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert (
        [e.step for e in events.Scalars("training/loss")]
        == [2, 4]
        == [e.step for e in events.Scalars("validation/seen")]
    )
    assert [e.step for e in events.Images("samples")] == [3, 4]
    assert sorted(p.name for p in (tmp_path / "samples").iterdir()) == [
        "step-00000003-clip.mp4",
        "step-00000004-clip.mp4",
    ]
    with av.open(str(tmp_path / "samples" / "step-00000003-clip.mp4")) as video:
        assert "synthetic" in str(video.metadata).lower() and len(video.streams.audio) == 1
        assert next(video.decode(video=0)).to_ndarray(format="rgb24").shape == (32, 64, 3)


def test_a_notice_makes_a_checkpoint_at_once_and_only_once(tmp_path: Path) -> None:
    lines: list[str] = []
    asked: list[int] = []

    def notice() -> str:
        asked.append(1)
        return "the machine a1 is about to be taken away" if len(asked) > 1 else ""

    run(
        ToyTask(),
        tmp_path,
        40,
        lines,
        log=LogConfig(log_every=50, checkpoint_every=100, keep_checkpoints=9),
        hooks=Hooks(preemption_notice=notice),
    )
    assert sorted(int(p.name[5:]) for p in (tmp_path / "checkpoints").iterdir()) == [16, 40]
    assert "toy: the machine a1 is about to be taken away: a checkpoint is taken at step 16" in lines


def test_a_store_that_refuses_metrics_and_samples_does_not_end_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = storage.write_bytes
    lines: list[str] = []

    def refuse(uri: str, data: bytes) -> None:
        if uri.endswith(("metrics.jsonl", ".mp4")) and refusing:
            raise storage.StoreError(f"cannot write {uri}: the store is down")
        write(uri, data)

    def report(record: dict[str, float]) -> None:
        if record["step"] == 6:
            refusing.clear()

    refusing = [True]
    monkeypatch.setattr(storage, "write_bytes", refuse)
    log = LogConfig(log_every=2, checkpoint_every=4, samples_every=4)
    result = run(ToyTask(), tmp_path, 8, lines, log=log, samples=lambda: next(toy_batches(0)), hooks=Hooks(report))
    assert result["step"] == 8 and sum("metrics.jsonl could not be written" in line for line in lines) == 1
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [2, 4, 6, 8]


def _interrupt_at(step: int) -> Any:
    def report(record: dict[str, float]) -> None:
        if record["step"] == step:
            raise KeyboardInterrupt

    return report


def test_activities_are_noted(tmp_path: Path) -> None:
    noted: list[tuple[int, str]] = []
    hooks = Hooks(activity=lambda step, doing: noted.append((step, doing)))
    run(ToyTask(), tmp_path, 2, validation=lambda: [next(toy_batches(0))], hooks=hooks)
    steps = [(step, doing) for step in (0, 1) for doing in ("waits for data", "computes")]
    assert noted == [*steps, (2, "validates"), (2, "exports")]


def test_a_run_that_lost_its_lease_ends_without_writing(tmp_path: Path) -> None:
    """Another driver takes over after step 6: neither a record, nor a checkpoint, nor a bundle is written then."""
    task = ToyTask()

    def take_over(record: dict[str, float]) -> None:
        if record["step"] == 6:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(lease, "EXPIRY_SECONDS", 0.0)
                lease.acquire(str(tmp_path), sleep=lambda seconds: None)

    with pytest.raises(lease.LeaseLostError, match="this driver has lost the lease of"):
        run(task, tmp_path, 40, hooks=Hooks(take_over))
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records] == [2, 4, 6] and task.seen == 8 and task.exported is None
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000004"]


def test_a_finished_run_only_validates_and_exports(tmp_path: Path) -> None:
    run(ToyTask(), tmp_path, 4)
    task = ToyTask()
    assert run(task, tmp_path, 4)["step"] == 4
    assert task.exported == {} and task.seen == 4


def test_a_batch_without_a_finite_loss_is_skipped_and_counted(tmp_path: Path) -> None:
    lines: list[str] = []
    broken = ToyTask(nan_at=[5, 8, 9])
    result = run(broken, tmp_path, 14, lines)
    assert broken.seen == 11 and result["skipped"] == 3
    assert sum("this batch is skipped" in line for line in lines) == 3 and lines[-1].endswith("3 batches skipped)")
    assert all(p.isfinite().all() for p in broken.engine.module.parameters())
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [r.get("skipped", 0) for r in records] == [0, 0, 1, 1, 3, 3, 3]
    assert "loss" in records[2] and "loss" not in records[4]  # of steps 8 and 9 there is nothing to tell


def test_many_in_a_row_end_the_run_and_name_the_last_good_checkpoint(tmp_path: Path) -> None:
    task = ToyTask(nan_at=range(8, 100))
    log = LogConfig(log_every=2, checkpoint_every=8, keep_checkpoints=2)
    message = r"^toy: the loss is not finite at step {} \(toy: loss\); the last good checkpoint is .*/step-00000008; "
    with pytest.raises(
        TrainingDivergedError, match=message.format(15)
    ):  # a checkpoint is due: it would hold what NaN has left
        run(task, tmp_path, 40, log=log)
    with pytest.raises(TrainingDivergedError, match=message.format(17)):
        run(
            ToyTask(nan_at=range(8, 100)),
            tmp_path,
            40,
            log=LogConfig(log_every=2, checkpoint_every=30, keep_checkpoints=2),
        )
    assert task.exported is None and task.seen == 8
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000008"]


def test_a_run_begins_from_another_runs_checkpoint_and_then_goes_on_from_its_own(tmp_path: Path) -> None:
    first, second, again = ToyTask(), ToyTask(), ToyTask()
    torch.manual_seed(3)
    run(first, tmp_path / "first", 8)
    donor = tmp_path / "first" / "checkpoints" / "step-00000004"
    lines: list[str] = []
    run(second, tmp_path / "second", 8, lines, begin_from=str(donor))
    assert lines[0] == f"toy continues from the checkpoint of step 4, {donor}" and second.seen == 8
    assert [json.loads(line)["step"] for line in (tmp_path / "second" / "metrics.jsonl").read_text().splitlines()] == [
        6,
        8,
    ]
    for name, value in first.engine.module.state_dict().items():
        assert value.equal(second.engine.module.state_dict()[name]), (
            "the same weights, random numbers and batches from there on"
        )
    lines.clear()
    run(again, tmp_path / "second", 12, lines, begin_from=str(donor))
    assert lines[0] == "toy continues from the checkpoint of step 8"
    with pytest.raises(ValueError, match="there is no checkpoint at"):
        run(ToyTask(), tmp_path / "third", 8, begin_from=str(tmp_path / "nothing"))


def test_a_validation_is_reported_when_the_checkpoint_of_its_step_is_whole(tmp_path: Path) -> None:
    seen: list[tuple[int, bool]] = []

    def report(record: dict[str, Any]) -> None:
        if "val_seen" in record:
            found = checkpoint.latest(str(tmp_path))
            seen.append((record["step"], found is not None and found.step == record["step"]))

    log = LogConfig(log_every=2, checkpoint_every=4, validate_every=4)
    run(
        ToyTask(),
        tmp_path,
        8,
        validation=lambda: [next(toy_batches(0))],
        hooks=Hooks(report, report_after_checkpoint=True),
        log=log,
    )
    assert seen == [(4, True), (8, True)]
