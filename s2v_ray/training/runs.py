"""What a run is, and its folder: the manifest decides whether a run may be continued."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from s2v_ray import shards, storage
from s2v_ray.config import Recipe, digest
from s2v_ray.models.bundle import BUNDLE_SCHEMA
from s2v_ray.training.checkpoint import CHECKPOINT_SCHEMA, folder_of
from s2v_ray.training.tasks import Kind

RUN_SCHEMA = 3
CHANGEABLE_PARALLEL_KEYS = (
    "workers",
    "min_workers",
    "max_failures",
    "wait_minutes",
    "cpus_per_worker",
    "threads",
    "gpu",
    "timeout_minutes",
    "tf32",
    "cudnn_benchmark",
    "accumulate",
    "checkpoint_activations",
)
CHANGEABLE = ("config_digest", "recipe.log.", *(f"recipe.parallel.{key}" for key in CHANGEABLE_PARALLEL_KEYS))
"""What may differ when a run is continued: how the work is shared, and what is logged."""


@dataclass(frozen=True)
class RunSpec:
    """A training run.

    Attributes:
        kind: "distill" trains a student, "gan" a Speech2Video.
        recipe: its recipe.
        corpus: URI of the corpus.
        run: URI of the run folder, which gets manifest, checkpoints, metrics and bundle.
        student: URI of a student's bundle, for the GAN.
        reference: whether the reference baseline is trained.
        begin_from: URI of another run's checkpoint from which a new run starts, at its step, possibly with other
            weights and schedules.
        sweep: URI of the sweep that the run is a trial of, or "".
    """

    kind: Kind
    recipe: Recipe
    corpus: str
    run: str
    student: str | None = None
    reference: bool = False
    begin_from: str = ""
    sweep: str = ""

    def absolute(self) -> RunSpec:
        """Return a copy with absolute URIs."""
        student = None if self.student is None else storage.absolute(self.student)
        return replace(self, corpus=storage.absolute(self.corpus), run=storage.absolute(self.run), student=student)

    def digest(self) -> str:
        """Return a digest of everything that identifies the run."""
        return digest({**vars(self), "recipe": self.recipe.model_dump(mode="json")})


def claim_run(spec: RunSpec) -> dict[str, Any]:
    """Write the manifest of a new run folder, or check that an existing one belongs to the same run.

    Raises:
        ArtifactError: there is no corpus, the folder is not writable, or it belongs to another run; the message names
            the difference.
    """
    parents = {"corpus": digest(shards.read_corpus_manifest(spec.corpus))}
    if spec.student is not None:
        parents["student"] = digest(storage.read_manifest(spec.student, "bundle", BUNDLE_SCHEMA))
    mine: dict[str, Any] = {
        "task": spec.kind,
        "reference": spec.reference,
        "parents": parents,
        "config_digest": spec.recipe.digest(),
        "recipe": spec.recipe.model_dump(mode="json"),
    }
    if spec.begin_from:
        mine["begin_from"] = spec.begin_from
    if spec.sweep:
        mine["sweep"] = spec.sweep
    if not storage.exists(storage.join(spec.run, storage.MANIFEST)):
        if spec.begin_from:
            folder = folder_of(spec.begin_from)
            parents["checkpoint"] = digest(storage.read_manifest(folder, "checkpoint", CHECKPOINT_SCHEMA))
        storage.check_writable(spec.run)
        return storage.write_manifest(spec.run, "run", RUN_SCHEMA, **mine)
    existing = storage.read_manifest(spec.run, "run", RUN_SCHEMA)
    differences = [
        f"{key} {old!r} there, {new!r} here"
        for key, old, new in _differences(existing, mine)
        if not key.startswith(CHANGEABLE)
    ]
    if differences:
        raise storage.ArtifactError(
            f"{spec.run} holds another run ({'; '.join(differences[:3])}): name another folder, or remove it"
        )
    return existing


def _differences(existing: Any, mine: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield key, existing and own value of each leaf of ``mine`` that differs."""
    for key, value in mine.items():
        other = existing.get(key) if isinstance(existing, dict) else None
        if isinstance(value, dict):
            yield from _differences(other, value, f"{prefix}{key}.")
        elif other != value:
            yield f"{prefix}{key}", other, value
