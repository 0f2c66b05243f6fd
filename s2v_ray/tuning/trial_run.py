"""A trial's run of Ray Train, which continues from validation to validation. Knows no Ray Tune."""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass
from typing import Any

from s2v_ray import logs, storage
from s2v_ray.training.launch import launch
from s2v_ray.training.runs import RunSpec
from s2v_ray.tuning.parameters import Params
from s2v_ray.tuning.space import steps_of, trial_recipe
from s2v_ray.tuning.trials import Segment, Sweep

CLEANUP_SECONDS = 120.0
"""Longest wait for the end of a run that was stopped."""
ENDED = "ended"
"""Key of a trial's last result: "finished", or "stopped" or "failed" with the reason."""

Result = dict[str, Any]


@dataclass(frozen=True)
class Pointer:
    """Where a trial's newest checkpoint is: what Ray Tune keeps as its checkpoint.

    Attributes:
        trial: number of the trial.
        step: step of the checkpoint.
        checkpoint: its URI.
    """

    trial: int
    step: int
    checkpoint: str


class TrialRun:
    """Runs the training of a trial in a thread and stops it at every validation until it may continue.

    So it never trains beyond what the scheduler has decided, and a trial that is stopped or replaced ends its run in
    the ordinary way and releases its resources.

    Args:
        sweep: the sweep.
        number: number of the trial.
        params: its values.
        share: resources that it may use.
    """

    def __init__(self, sweep: Sweep, number: int, params: Params, share: dict[str, float]) -> None:
        self.sweep, self.number, self.params, self.share = sweep, number, params, share
        self.pointer: Pointer | None = None
        self.thread: threading.Thread | None = None
        self._events: queue.Queue[Result | Exception | None] = queue.Queue()
        self._decisions: queue.Queue[bool] = queue.Queue()
        self._waiting = False  # whether the run waits for a decision
        self._final: Result = {}

    def step(self) -> Result:
        """Train to the next validation, or to the end; return what Ray Tune gets."""
        if self.thread is None:
            self._start()
        elif self._waiting:
            self._decisions.put(True)
        while True:
            event = self._events.get()
            self._waiting = isinstance(event, dict)
            result = self._result(event)
            if result is not None:
                return result
            self._decisions.put(True)

    def stop(self) -> bool:
        """End the run and wait until it has released its workers; return whether it ended in time."""
        self._decisions.put(False)
        if self.thread is None:
            return True
        self.thread.join(CLEANUP_SECONDS)
        return not self.thread.is_alive()

    def _start(self) -> None:
        segments = self._segments()
        current = segments[-1]
        self._run = self.sweep.run_of(self.number, current)
        self._at = {"segment": len(segments) - 1, "start": current.step}
        sweep = self.sweep
        student = None
        if sweep.space.task == "gan":
            student = sweep.student or storage.join(sweep.uri, "student", "bundle")

        def train() -> None:
            try:
                recipe = trial_recipe(sweep.space, sweep.recipe, current.params)
                spec = RunSpec(
                    sweep.space.task,
                    recipe,
                    sweep.corpus,
                    self._run,
                    student,
                    begin_from=current.begin_from,
                    sweep=sweep.uri,
                )
                with logs.identified(trial=str(self.number)):
                    launch(spec, cluster=self.share, on_record=self._on_record)
                self._events.put(None)
            except Exception as e:  # raised by the thread of ``step``
                self._events.put(e)

        self.thread = threading.Thread(target=train, daemon=True)
        self.thread.start()

    def _on_record(self, record: Result) -> bool:
        self._events.put(record)
        return self._decisions.get()

    def _segments(self) -> list[Segment]:
        """Return the trial's runs, with a new one if it starts from another trial's checkpoint."""
        segments, pointer = self.sweep.segments(self.number), self.pointer
        if not segments:
            segments = [Segment("run-0", self.params)]
        elif pointer is not None and pointer.trial != self.number:
            last = segments[-1]
            if (last.begin_from, last.params) != (pointer.checkpoint, self.params):
                name = f"run-{len(segments)}"
                segments.append(Segment(name, self.params, pointer.checkpoint, pointer.trial, pointer.step))
        self.sweep.write_segments(self.number, segments)
        return segments

    def _result(self, event: Result | Exception | None) -> Result | None:
        """Return what Ray Tune gets of a record or of the end of the run; None for nothing."""
        space, steps = self.sweep.space, steps_of(self.sweep.space, self.sweep.recipe)
        if event is None:
            return {**self._final, **self._at, "step": steps, ENDED: "finished", "done": True}
        if isinstance(event, Exception):
            if not isinstance(event, ValueError) or isinstance(event, storage.StoreError):
                raise event  # a node, a process or the network failed: Ray Tune tries again
            return {ENDED: f"failed: {event}", "done": True}
        if triggered := set(event.get("alarms", ())).intersection(space.stop_on):
            return {ENDED: f"stopped: {', '.join(sorted(triggered))}", "done": True}
        found = {k: v for k, v in event.items() if k.startswith("val_")}
        if not found:
            return None
        needed = dict.fromkeys((*space.objectives, space.primary_metric))
        if absent := [m for m in needed if f"val_{m}" not in found]:
            reason = f"validation does not measure {', '.join(absent)} on this corpus: `s2v teach` makes the judges"
            return {ENDED: f"failed: {reason}", "done": True}
        if event["step"] == steps:
            self._final = found  # returned when the bundle is written
            return None
        checkpoint = storage.join(self._run, "checkpoints", f"step-{event['step']:08d}")
        self.pointer = Pointer(self.number, event["step"], checkpoint)
        return {**found, **self._at, "step": event["step"]}
