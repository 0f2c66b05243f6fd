"""Ingest and annotation on Ray Data. All that is computed is in the other modules of this package.

Ingest has two passes. The first processes files in parallel; each task writes the clips of a few files to a work
folder in the corpus and returns only their records, so the driver holds a few hundred bytes per clip. Then the
driver assigns the clips to splits and shards, and the second pass writes the shards from the staged clips. Order,
ids and splits depend on content and seed, never on scheduling, and finished tasks are not repeated. So an ingest
that was killed at any time can be restarted with the same command, and the corpus has the same bytes as that of an
uninterrupted run.

Readers use only the shards that the manifest counts, and the manifest is written last: until then they see the old
corpus, or
none. Files that an earlier ingest has processed, identified by their names, are skipped: clips of new files go to
new shards.
"""

from __future__ import annotations

import logging
import time
from dataclasses import asdict
from typing import Any

import ray
import ray.data
import torch

from s2v_ray import config, shards, storage
from s2v_ray.cluster.runtime import node_selector, start_ray
from s2v_ray.config import Recipe
from s2v_ray.ingest import annotate as annotation
from s2v_ray.ingest import corpus as corpora
from s2v_ray.ingest import offsets, staging
from s2v_ray.ingest.corpus import Shard, ShardAssembly
from s2v_ray.ingest.sources import SourceClip, list_clips
from s2v_ray.ingest.staging import ClipRecord, RejectRecord, StagingResult, StagingTask
from s2v_ray.logs import Progress, log_progress
from s2v_ray.media import voice
from s2v_ray.media.face import make_detector
from s2v_ray.models import face_card, teachers

logger = logging.getLogger(__name__)

MAX_BLOCKS = 400
"""Most blocks into which Ray Data divides the tasks of the first pass."""
_LOG_SECONDS = 1.0  # between two log records of a loop


def ingest(source_uri: str, corpus_uri: str, recipe: Recipe) -> dict[str, Any]:
    """Makes a corpus from a source, resumes an interrupted ingest, or adds new files to an existing corpus.

    Teachers that the recipe names are installed, and the outputs of every teacher in the corpus are computed for
    new clips. Teachers that are trained on the corpus need ``s2v teach``.

    Args:
        source_uri: folder with videos.
        corpus_uri: of the corpus.
        recipe: config.

    Returns:
        the corpus's manifest.

    Raises:
        ArtifactError: the source is empty, the corpus cannot be written, no clip is usable, more files are rejected
            than ``ingest.max_reject_share`` allows, or the corpus was made with other settings. An existing corpus
            is unchanged.
        ValueError: the source or the detector of the recipe does not exist.
    """
    layout, clips = list_clips(source_uri, recipe.ingest.source)
    clips = offsets.apply_offsets(clips, recipe.ingest)
    existing = corpora.read_existing(corpus_uri, recipe)
    processed = existing.processed_files()
    new = [c for c in clips if c.name not in processed]
    cards = _check_inputs(new, corpus_uri, recipe)
    start_ray()
    count_new = f", {len(new)} of them new" if existing.shards else ""
    logger.info("ingest: %d files of layout %r in %s%s", len(clips), layout, source_uri, count_new)

    added, rejects = _stage_files(new, corpus_uri, recipe)
    added, rejects = corpora.drop_duplicates(existing.clips, added, [*existing.rejects, *rejects])
    corpora.check_rejects(existing.files + len(new), [*existing.clips, *added], rejects, recipe)
    plan = corpora.plan_shards(existing, added, recipe)
    _write_shards(plan, corpus_uri)
    made = [*existing.shards, *plan]
    corpora.write_indexes(corpus_uri, made)
    _install_and_annotate(cards, corpus_uri, recipe, [shard.name for shard in made])
    if plan or rejects != existing.rejects or not existing.shards:
        corpora.write_rejects(corpus_uri, rejects)
        content = corpora.corpus_manifest(made, existing.files + len(new), rejects, recipe)
        content["source"] = {"uri": source_uri, "layout": layout}
        content["alignment"] = corpora.count_alignment(existing, added)
        content["parents"] = {"source": corpora.source_digest(source_uri, clips)}
        if recipe.ingest.offset != "none":
            content["offset"] = offsets.describe_correction(clips, recipe.ingest)
        storage.write_manifest(corpus_uri, "corpus", shards.CORPUS_SCHEMA, **content)
    corpora.remove_leftovers(corpus_uri)
    manifest = shards.read_corpus_manifest(corpus_uri)
    _log_result(manifest, len(rejects), corpus_uri)
    return manifest


def annotate(corpus_uri: str, role: str) -> dict[str, Any]:
    """Computes and stores the outputs of a corpus's teacher for every clip, unless they are stored already.

    Returns:
        role, digest of the network, number of shards.

    Raises:
        ArtifactError: there is no corpus, or it has no such teacher.
    """
    manifest = shards.read_corpus_manifest(corpus_uri)
    names = [shards.shard_name(split, i) for split in shards.SPLITS for i in range(manifest["splits"][split]["shards"])]
    storage.check_writable(storage.join(corpus_uri, "teachers", role))
    start_ray()
    return _annotate(corpus_uri, role, names)


def _check_inputs(new: list[SourceClip], corpus_uri: str, recipe: Recipe) -> dict[str, str]:
    """Checks detector, storage and teachers before any work; returns the cards of the teachers to install, by role."""
    if not all(c.ground_truth for c in new):
        make_detector(recipe.ingest.detector)
    if recipe.ingest.min_speech > 0:
        voice.load_detector()
    storage.check_writable(corpus_uri)
    cards = {role: card for role in annotation.ROLES if (card := getattr(recipe.teachers, role))}
    for card in cards.values():
        teachers.resolve_card(card, recipe.teachers.weights)
    return cards


# ---- first pass


def _stage_files(
    files: list[SourceClip], corpus_uri: str, recipe: Recipe
) -> tuple[list[ClipRecord], list[RejectRecord]]:
    """Stages the clips of all files; returns records of clips and rejects in the source's order."""
    if not files:
        return [], []
    key = {
        "settings": corpora.settings(recipe),
        "files": [f.name for f in files],
        "files_per_task": staging.files_per_task(len(files)),
    }
    folder = storage.join(corpus_uri, corpora.WORK, config.digest(key))
    rows = [task.to_row() for task in staging.make_tasks(files)]
    data = ray.data.from_items(rows, override_num_blocks=min(len(rows), MAX_BLOCKS)).flat_map(
        _stage_row, fn_args=(recipe, folder), label_selector=node_selector("ingest")
    )
    results, done, rejected, began = [], 0, 0, time.monotonic()
    logged = began
    for row in data.iter_rows():
        result = StagingResult(**row)
        results.append(result)
        done += result.piece == 0
        rejected += bool(result.reason)
        if time.monotonic() - logged > _LOG_SECONDS:
            logged = time.monotonic()
            progress = Progress("ingest", done, len(files), "files", {"rejected": rejected})
            speed = (logged - began) / done
            log_progress(
                logger, progress, "ingest: %d/%d files, %d rejected, %.2f s a file", done, len(files), rejected, speed
            )
    return staging.split_results(results)


def _stage_row(row: dict[str, Any], recipe: Recipe, folder: str) -> list[dict[str, Any]]:
    return [asdict(result) for result in staging.stage(StagingTask.from_row(row), recipe, folder)]


# ---- second pass


def _write_shards(plan: list[Shard], corpus_uri: str) -> None:
    if not plan:
        return
    rows = [asdict(ShardAssembly.of(shard, corpus_uri)) for shard in plan]
    ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        _write_shard_row, label_selector=node_selector("ingest")
    ).take_all()


def _write_shard_row(row: dict[str, Any]) -> dict[str, Any]:
    return {"clips": corpora.write_planned_shard(ShardAssembly(**row))}


def _log_result(manifest: dict[str, Any], rejected: int, corpus_uri: str) -> None:
    counts = {split: manifest["splits"][split]["clips"] for split in shards.SPLITS}
    listed = ", ".join(f"{split} {n}" for split, n in counts.items())
    logger.info("ingest: %d clips (%s), %d rejected -> %s", sum(counts.values()), listed, rejected, corpus_uri)


# ---- outputs of teachers


def _install_and_annotate(cards: dict[str, str], corpus_uri: str, recipe: Recipe, names: list[str]) -> None:
    for role, card in cards.items():
        teachers.install_card(card, recipe.teachers.weights, storage.join(corpus_uri, "teachers", role))
    for role in annotation.ROLES:
        if storage.exists(storage.join(corpus_uri, "teachers", role, face_card.CARD)):
            _annotate(corpus_uri, role, names)


def _annotate(corpus_uri: str, role: str, names: list[str]) -> dict[str, Any]:
    job = annotation.make_job(corpus_uri, role, names)
    if job.complete:
        logger.info("annotate: %s: already there", role)
        return job.result()
    job.begin()
    gpus = int(ray.cluster_resources().get("GPU", 0))
    actors = max(1, gpus or int(ray.cluster_resources().get("CPU", 1)))
    rows = [{"shard": shard, "outputs": outputs} for shard, outputs in job.shards]
    data = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        _Annotator,
        fn_constructor_args=(job.network_uri, role),
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=actors),
        num_gpus=1 if gpus else 0,
        num_cpus=1,
        label_selector=node_selector("train" if gpus else "ingest"),
    )
    clips, logged = 0, time.monotonic()
    for i, row in enumerate(data.iter_rows(), 1):
        clips += row["clips"]
        if time.monotonic() - logged > _LOG_SECONDS or i == len(rows):
            logged = time.monotonic()
            progress = Progress(f"annotate {role}", i, len(rows), "shards", {"clips": clips})
            log_progress(logger, progress, "annotate: %s: %d/%d shards, %d clips", role, i, len(rows), clips)
    job.finish()
    return job.result()


class _Annotator:
    """A teacher, loaded once per actor, that annotates shards."""

    def __init__(self, network: str, role: str) -> None:
        self.network, self.role = teachers.load(network, "cuda" if torch.cuda.is_available() else "cpu"), role

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"clips": annotation.annotate_shard(self.network, self.role, row["shard"], row["outputs"])}
