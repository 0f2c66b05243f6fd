"""The table of a sweep: its trials and their results, at any URI. Everything survives a kill at any time. Knows no Ray.

    SWEEP/manifest.json                 kind "sweep": space, recipe, corpus, student
    SWEEP/student/                      run of the distillation that all trials share, if no student was given
    SWEEP/trials/00007/trial.json       values, state and curve of one trial, written before it starts and after each
    validation SWEEP/trials/00007/segments.json    its runs: more than one if population based training changed it
    SWEEP/trials/00007/run-0/           an ordinary run, which continues from its checkpoints
    SWEEP/tune/                         Ray Tune's own files; not read again

Each file has one writer: the driver writes ``trial.json``, the process of the trial the rest of its folder.
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
from s2v_ray.tuning.parameters import Params
from s2v_ray.tuning.space import Space

SWEEP_SCHEMA = 2

State = Literal["running", "finished", "stopped", "failed"]
POSITION_KEYS = ("step", "segment", "start", "at")
"""Keys of a validation that are not metrics."""


@dataclass(frozen=True)
class Segment:
    """One run of a trial. All but the first start from another trial's checkpoint.

    Attributes:
        run: name of its folder.
        params: values of this run.
        begin_from: URI of the other trial's checkpoint, or "".
        parent: number of the other trial.
        step: step of that checkpoint.
    """

    run: str
    params: Params
    begin_from: str = ""
    parent: int | None = None
    step: int = 0


@dataclass
class Trial:
    """A row of the table.

    Attributes:
        number: counted from 0.
        params: values that it started with.
        state: running, finished, stopped or failed.
        reason: why it ended early.
        curve: its validations: ``step``, ``segment``, ``start`` (first step of the segment), ``at`` (Unix time), and
            metrics.
        spans: when it held resources: pairs of Unix times, one for each start.
    """

    number: int
    params: Params
    state: State = "running"
    reason: str = ""
    curve: list[dict[str, Any]] = field(default_factory=list)
    spans: list[list[float]] = field(default_factory=list)

    def scores(self) -> dict[str, float]:
        """Return the metrics of its last validation."""
        return {k: v for k, v in self.curve[-1].items() if k not in POSITION_KEYS} if self.curve else {}

    def steps(self) -> int:
        """Return the steps that it trained, over all segments, up to the last validation of each."""
        trained = {p["segment"]: p["step"] - p["start"] for p in self.curve}
        return sum(trained.values())

    def add_point(self, point: dict[str, Any]) -> None:
        """Add a validation; earlier ones of the same segment at this step or later were lost, and are removed."""
        self.curve = [p for p in self.curve if p["segment"] != point["segment"] or p["step"] < point["step"]] + [point]

    def started(self) -> None:
        """Record that it holds resources from now on."""
        now = time.time()
        self.spans.append([now, now])

    def touch(self) -> None:
        """Record that it still holds its resources."""
        self.spans[-1][1] = time.time()


@dataclass(frozen=True)
class Sweep:
    """A sweep, as its manifest describes it.

    Attributes:
        uri: its folder.
        space: what is searched.
        recipe: recipe that the trials vary.
        corpus: URI of the corpus.
        student: URI of the student's bundle, or None.
        manifest: the whole manifest.
    """

    uri: str
    space: Space
    recipe: Recipe
    corpus: str
    student: str | None
    manifest: dict[str, Any]

    def folder(self, number: int) -> str:
        """Return the folder of a trial."""
        return storage.join(self.uri, "trials", f"{number:05d}")

    def segments(self, number: int) -> list[Segment]:
        """Return the runs of a trial, the current one last; [] before its first."""
        try:
            return [Segment(**s) for s in storage.read_json(storage.join(self.folder(number), "segments.json"))]
        except (FileNotFoundError, NotADirectoryError):
            return []

    def write_segments(self, number: int, segments: list[Segment]) -> None:
        """Write the runs of a trial."""
        storage.write_json(storage.join(self.folder(number), "segments.json"), [asdict(s) for s in segments])

    def run_of(self, number: int, segment: Segment) -> str:
        """Return the URI of a run."""
        return storage.join(self.folder(number), segment.run)

    def write(self, trial: Trial) -> None:
        """Write a row."""
        storage.write_json(storage.join(self.folder(trial.number), "trial.json"), asdict(trial))

    def trials(self) -> list[Trial]:
        """Return all trials, by number.

        Raises:
            ArtifactError: a row of the table is damaged.
        """
        found = []
        for uri in storage.list_files(storage.join(self.uri, "trials"), "/trial.json"):
            try:
                found.append(Trial(**storage.read_json(uri)))
            except (json.JSONDecodeError, TypeError) as e:
                raise storage.ArtifactError(f"{uri} is damaged: {e}") from e
        return sorted(found, key=lambda t: t.number)


def claim_sweep(uri: str, space: Space, recipe: Recipe, corpus: str, student: str | None, resume: bool) -> Sweep:
    """Write the manifest of a new sweep, or check that an existing one belongs to the same sweep.

    Raises:
        ArtifactError: there is no corpus or student, the folder is not writable, or it holds this sweep (without
            ``resume``) or another one; the message names the difference.
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
    existing = storage.read_manifest(uri, "sweep", SWEEP_SCHEMA)
    names = {
        "space_digest": "the space",
        "config_digest": "the recipe",
        "corpus": "the corpus",
        "student": "the student",
        "parents": "corpus or student",
    }
    if differs := [what for key, what in names.items() if existing.get(key) != mine[key]]:
        raise storage.ArtifactError(
            f"{uri} holds a sweep that differs in {', '.join(differs)}: name another folder, or give the same again"
        )
    if not resume:
        raise storage.ArtifactError(f"{uri} holds this sweep already: --resume continues it")
    return open_sweep(uri)


def open_sweep(uri: str) -> Sweep:
    """Open the sweep at ``uri``.

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
    """Whether a run has written its bundle."""
    with contextlib.suppress(storage.ArtifactError):
        return bool(storage.read_manifest(storage.join(run, "bundle"), "bundle", BUNDLE_SCHEMA))
    return False


def summary(sweep: Sweep, trials: Sequence[Trial]) -> dict[str, Any]:
    """Return the result of a sweep, as plain values.

    Returns:
        ``sweep`` (URI), ``trials`` (state -> number), ``reasons`` (why trials ended early -> number), ``steps`` (of all
        trials), ``pareto`` (numbers), ``winner`` (number, ``None`` if no trial has finished), ``run``, ``params`` and
        ``scores`` of the winner.
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
    """Return the metrics of the trials that finished."""
    return {
        t.number: t.scores() for t in trials if t.state == "finished" and all(m in t.scores() for m in space.objectives)
    }
