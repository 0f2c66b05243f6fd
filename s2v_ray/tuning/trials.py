"""The table of a sweep: what was tried and what came of it. Any URI; what is written survives a kill at any time; knows no Ray.

    SWEEP/manifest.json                 kind "sweep": space, recipe, corpus, student
    SWEEP/student/                      run of the distillation that all trials share, where no student was given
    SWEEP/trials/00007/trial.json       values, state and curve of one trial, written before it starts and after each validation
    SWEEP/trials/00007/segments.json    its runs: more than one where population based training changed it
    SWEEP/trials/00007/run-0/           an ordinary run, which goes on from its checkpoints
    SWEEP/tune/                         Ray Tune's own files; never read again

Each file has one writer: the driver ``trial.json``, the trial's own process the rest of its folder.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from s2v_ray import shards, storage
from s2v_ray.config import Recipe, digest
from s2v_ray.models.bundle import BUNDLE_SCHEMA
from s2v_ray.tuning import winner
from s2v_ray.tuning.space import Params, Space

SWEEP_SCHEMA = 1

State = Literal["running", "finished", "stopped", "failed"]
NO_FIGURES = ("step", "segment", "start", "at")
"""What a validation carries beside its figures."""


@dataclass(frozen=True)
class Segment:
    """One run of a trial. All but the first begin from another trial's checkpoint."""

    run: str
    params: Params
    begin_from: str = ""
    parent: int | None = None
    step: int = 0


@dataclass
class Trial:
    """One line of the table.

    Attributes:
        params: the values it started with.
        reason: why it ended.
        curve: its validations: ``step``, ``segment``, ``start`` (the segment's first step), ``at`` (Unix time, seconds), and each figure.
        spans: when it held a slot: pairs of Unix times, one for each start.
    """

    number: int
    params: Params
    state: State = "running"
    reason: str = ""
    curve: list[dict[str, Any]] = field(default_factory=list)
    spans: list[list[float]] = field(default_factory=list)

    def scores(self) -> dict[str, float]:
        """The figures of its last validation."""
        return {k: v for k, v in self.curve[-1].items() if k not in NO_FIGURES} if self.curve else {}

    def steps(self) -> int:
        """Steps that it trained, over all its segments, as far as validations tell."""
        trained = {p["segment"]: p["step"] - p["start"] for p in self.curve}  # the last of each segment is the farthest
        return sum(trained.values())

    def note(self, point: dict[str, Any]) -> None:
        """Adds a validation; one of the same segment at this step or later was lost with the checkpoint after it, and is dropped."""
        self.curve = [p for p in self.curve if p["segment"] != point["segment"] or p["step"] < point["step"]] + [point]

    def started(self) -> None:
        now = time.time()
        self.spans.append([now, now])

    def seen(self) -> None:
        """It holds its slot still."""
        self.spans[-1][1] = time.time()


@dataclass(frozen=True)
class Sweep:
    """What a sweep is, from its manifest."""

    uri: str
    space: Space
    recipe: Recipe
    corpus: str
    student: str | None
    manifest: dict[str, Any]

    def folder(self, number: int) -> str:
        return storage.join(self.uri, "trials", f"{number:05d}")

    def segments(self, number: int) -> list[Segment]:
        """The runs of a trial, the last one being the one it goes on with; [] before its first."""
        try:
            return [Segment(**s) for s in storage.read_json(storage.join(self.folder(number), "segments.json"))]
        except (FileNotFoundError, NotADirectoryError):
            return []

    def write_segments(self, number: int, segments: list[Segment]) -> None:
        storage.write_json(storage.join(self.folder(number), "segments.json"), [asdict(s) for s in segments])

    def run_of(self, number: int, segment: Segment) -> str:
        return storage.join(self.folder(number), segment.run)

    def write(self, trial: Trial) -> None:
        storage.write_json(storage.join(self.folder(trial.number), "trial.json"), asdict(trial))

    def trials(self) -> list[Trial]:
        """All trials, by number.

        Raises:
            ArtifactError: a line of the table is damaged.
        """
        found = []
        for uri in storage.list_files(storage.join(self.uri, "trials"), "/trial.json"):
            try:
                found.append(Trial(**storage.read_json(uri)))
            except (json.JSONDecodeError, TypeError) as e:
                raise storage.ArtifactError(f"{uri} is damaged: {e}") from e
        return sorted(found, key=lambda t: t.number)


def claim_sweep(uri: str, space: Space, recipe: Recipe, corpus: str, student: str | None, resume: bool) -> Sweep:
    """Writes the manifest of a fresh sweep, or checks that the one there is of the very same sweep.

    Raises:
        ArtifactError: no corpus or student, an unwritable folder, a sweep without ``resume``, or another sweep; the message says what differs.
    """
    parents = {"corpus": digest(shards.read_corpus_manifest(corpus))}
    if student is not None:
        parents["student"] = digest(storage.read_manifest(student, "bundle", BUNDLE_SCHEMA))
    mine = {
        "space": space.model_dump(mode="json"),
        "space_digest": space.digest(),
        "recipe": recipe.model_dump(mode="json"),
        "config_digest": recipe.digest(),
        "corpus": corpus,
        "student": student,
        "parents": parents,
    }
    if not storage.exists(storage.join(uri, storage.MANIFEST)):
        storage.check_writable(uri)
        storage.write_manifest(uri, "sweep", SWEEP_SCHEMA, **mine)
        return open_sweep(uri)
    there = storage.read_manifest(uri, "sweep", SWEEP_SCHEMA)
    names = {
        "space_digest": "the space",
        "config_digest": "the recipe",
        "corpus": "the corpus",
        "student": "the student",
        "parents": "corpus or student",
    }
    if differs := [what for key, what in names.items() if there.get(key) != mine[key]]:
        raise storage.ArtifactError(
            f"{uri} holds a sweep that differs in {', '.join(differs)}: name another folder, or give the same again"
        )
    if not resume:
        raise storage.ArtifactError(f"{uri} holds this sweep already: --resume goes on with it")
    return open_sweep(uri)


def open_sweep(uri: str) -> Sweep:
    """The sweep that lies at ``uri``.

    Raises:
        ArtifactError: there is none, or it was made by another version.
    """
    manifest = storage.read_manifest(uri, "sweep", SWEEP_SCHEMA)
    try:
        space, recipe = Space.model_validate(manifest["space"]), Recipe.model_validate(manifest["recipe"])
        return Sweep(uri, space, recipe, manifest["corpus"], manifest["student"], manifest)
    except (KeyError, ValueError) as e:
        raise storage.ArtifactError(f"the sweep {uri} was made by another version of s2v_ray: {e}") from e


def has_bundle(run: str) -> bool:
    """Whether a run has ended in a bundle."""
    with contextlib.suppress(storage.ArtifactError):
        return bool(storage.read_manifest(storage.join(run, "bundle"), "bundle", BUNDLE_SCHEMA))
    return False


def summary(sweep: Sweep, trials: Sequence[Trial]) -> dict[str, Any]:
    """What came of a sweep, as plain values.

    Returns:
        ``sweep`` (URI), ``trials`` (state -> number), ``reasons`` (why trials ended early -> number), ``steps`` (trained by all), ``pareto``
        (numbers), ``winner`` (number, ``None`` where no trial finished), ``run``, ``params`` and ``scores`` of the winner.
    """
    space = sweep.space
    scores = finished(space, trials)
    counts: dict[str, int] = {}
    reasons: dict[str, int] = {}
    for t in trials:
        counts[t.state] = counts.get(t.state, 0) + 1
        if t.state in ("stopped", "failed"):
            reasons[t.reason] = reasons.get(t.reason, 0) + 1
    found: dict[str, Any] = {
        "sweep": sweep.uri,
        "trials": counts,
        "reasons": reasons,
        "steps": sum(t.steps() for t in trials),
        "pareto": [],
        "winner": None,
    }
    if scores:
        best = winner.pick(scores, space.objectives, space.winner)
        last = sweep.segments(best)[-1]
        found |= {
            "pareto": winner.pareto_set(scores, space.objectives),
            "winner": best,
            "run": sweep.run_of(best, last),
            "params": last.params,
        }
        found["scores"] = dict(scores[best])
    return found


def finished(space: Space, trials: Sequence[Trial]) -> dict[int, dict[str, float]]:
    """The figures of the trials that ended in a bundle."""
    return {
        t.number: t.scores() for t in trials if t.state == "finished" and all(m in t.scores() for m in space.objectives)
    }
