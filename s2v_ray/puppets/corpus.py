"""The puppets' corpus: MP4 files, each with a file of ground truth beside it.

    OUT/manifest.json                                kind "puppets"
    OUT/<speaker>/<emotion>-<sentence number>.mp4
    OUT/<speaker>/<emotion>-<sentence number>.json   speaker, emotion, sentence, phonemes, landmarks, mouth_opening

With recordings of people (``puppets.voices``), statement, intensity and repetition replace the sentence number.

Every clip depends on ``(seed, speaker, emotion, sentence)`` or on the seed and its recording only, so neither the
number of processes nor their order changes a byte.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from typing import Any

import cv2
import numpy as np

from s2v_ray import storage
from s2v_ray.config import PuppetsConfig, digest
from s2v_ray.logs import Progress, log_progress
from s2v_ray.media.timing import FPS
from s2v_ray.puppets.clips import ClipSpec, SceneSpec, TakeSpec, WrittenClip, write_clip
from s2v_ray.puppets.recordings import SetAside, list_recordings
from s2v_ray.puppets.sentences import make_sentences

logger = logging.getLogger(__name__)

KIND, SCHEMA = "puppets", 1
SENTENCE_POOL = 4
"""Size of the pool of sentences, in numbers of sentences per speaker: speakers share sentences, none speaks all."""
MAX_SET_ASIDE = 0.5
"""Largest share of the recordings that may be set aside."""
_MAX_LOGGED = 20  # recordings that are set aside; the manifest lists all


@dataclass(frozen=True)
class Plan:
    """What to make.

    Attributes:
        specs: of the clips.
        set_aside: recordings whose names rule them out.
        other_emotions: number of recordings with emotions that are not wanted.
        parents: of the manifest.
    """

    specs: Sequence[SceneSpec]
    set_aside: list[SetAside] = field(default_factory=list)
    other_emotions: int = 0
    parents: dict[str, str] = field(default_factory=dict)


def list_clips(config: PuppetsConfig, seed: int) -> list[ClipSpec]:
    """Returns all clips of a corpus: each speaker speaks ``config.sentences`` of the pool, each with every emotion."""
    pool = make_sentences(SENTENCE_POOL * config.sentences, seed)
    chosen = np.empty((config.sentences, config.speakers), int)
    for slot in range(config.sentences):
        order = np.random.default_rng([seed, 3, slot]).permutation(config.speakers)
        chosen[slot] = slot * SENTENCE_POOL + order % SENTENCE_POOL
    return [
        ClipSpec(seed, speaker, emotion, int(chosen[slot, speaker]), pool[chosen[slot, speaker]], config)
        for speaker in range(config.speakers)
        for slot in range(config.sentences)
        for emotion in config.emotions
    ]


def plan_corpus(config: PuppetsConfig, seed: int) -> Plan:
    """Returns what to make: the clips of ``list_clips``, or one clip for each recording in ``config.voices``.

    Raises:
        ArtifactError: there are no recordings that can be used.
        ValueError: an emotion is listed twice, or none is listed.
    """
    if len(set(config.emotions)) != len(config.emotions) or not config.emotions:
        raise ValueError(f"puppets.emotions must name each emotion once, not {', '.join(config.emotions) or 'none'}")
    if not config.voices:
        return Plan(list_clips(config, seed))
    found = list_recordings(config.voices, config.emotions)
    names = digest([recording.name for recording in found.used])
    specs = [TakeSpec(seed, recording, config) for recording in found.used]
    return Plan(specs, found.set_aside, found.other_emotions, {"voices": names})


def make_puppets(out_uri: str, config: PuppetsConfig, seed: int, workers: int | None = None) -> dict[str, Any]:
    """Makes the corpus under ``out_uri``; an older puppets' corpus there is replaced.

    Args:
        out_uri: folder, local or ``s3://``.
        config: of the corpus.
        seed: of everything random.
        workers: number of processes; default: the CPUs that this process may use. The files do not depend on it.

    Returns:
        ``clips``, ``speakers``, ``emotions``, ``sentences``, ``frames``, ``seconds`` (of video), ``wall_seconds``,
        ``uri``; of recordings also ``set_aside`` (number by reason) and ``other_emotions`` (number not used).

    Raises:
        ArtifactError: ``out_uri`` cannot be written, or contains something else; there are no recordings, or more than
            ``MAX_SET_ASIDE`` of them cannot be used.
        ValueError: an emotion is listed twice, or none is listed.
    """
    plan = plan_corpus(config, seed)
    out_uri = storage.absolute(out_uri)
    old = _prepare_folder(out_uri)
    began = time.monotonic()
    made = _write_clips(plan.specs, out_uri, config, min(workers or len(os.sched_getaffinity(0)), len(plan.specs)))
    written = [clip for clip in made if isinstance(clip, WrittenClip)]
    set_aside = [*plan.set_aside, *(clip for clip in made if isinstance(clip, SetAside))]
    _check_set_aside(set_aside, len(written))
    _remove_stale(old, {clip.path for clip in written})
    frames = sum(clip.frames for clip in written)
    counts: dict[str, Any] = {
        "clips": len(written),
        "speakers": len({clip.speaker for clip in written}),
        "emotions": len({clip.emotion for clip in written}),
        "sentences": len({clip.sentence for clip in written}),
        "frames": frames,
        "seconds": round(frames / FPS, 2),
    }
    if config.voices:
        counts["set_aside"] = dict(sorted(Counter(file.reason for file in set_aside).items()))
        counts["other_emotions"] = plan.other_emotions
    rejects = [asdict(file) for file in sorted(set_aside, key=lambda file: file.name)]
    _write_manifest(out_uri, {"counts": counts, "parents": plan.parents, "set_aside": rejects}, config, seed, written)
    wall = round(time.monotonic() - began, 2)
    logger.info("puppets: %d clips, %.0f s of video, in %.0f s -> %s", len(written), counts["seconds"], wall, out_uri)
    return {**counts, "wall_seconds": wall, "uri": out_uri}


def _check_set_aside(set_aside: Sequence[SetAside], written: int) -> None:
    """Logs recordings that cannot be used, and raises ArtifactError if they are too many."""
    for file in set_aside[:_MAX_LOGGED]:
        logger.warning("puppets: %s is set aside (%s): %s", file.name, file.reason, file.detail)
    total = len(set_aside) + written
    if len(set_aside) > MAX_SET_ASIDE * total:
        first = set_aside[0]
        raise storage.ArtifactError(
            f"{len(set_aside)} of {total} recordings cannot be used, at most a share of {MAX_SET_ASIDE} may be; "
            f"the first: {first.name}: {first.detail}"
        )


def _prepare_folder(out_uri: str) -> list[str]:
    """Checks the folder, removes an old manifest (which marks the corpus as incomplete), and returns the old files."""
    storage.check_writable(out_uri)
    old = storage.list_files(out_uri)
    manifest = storage.join(out_uri, storage.MANIFEST)
    if old and not (storage.exists(manifest) and storage.read_json(manifest).get("kind") == KIND):
        raise storage.ArtifactError(f"{out_uri} holds something that is not a puppets' corpus: name an empty folder")
    storage.remove(manifest)
    return old


def _write_clips(
    specs: Sequence[SceneSpec], out_uri: str, config: PuppetsConfig, workers: int
) -> list[WrittenClip | SetAside]:
    speakers = len({spec.path.partition("/")[0] for spec in specs})
    logger.info(
        "puppets: %d speakers, %d emotions, %d clips, %d processes",
        speakers,
        len(config.emotions),
        len(specs),
        workers,
    )
    began, step = time.monotonic(), max(len(specs) // 10, 1)
    written: list[WrittenClip | SetAside] = []
    for done, clip in enumerate(_run(specs, out_uri, workers), 1):
        written.append(clip)
        if done % step == 0:
            progress = Progress("puppets", done, len(specs), "clips")
            seconds = time.monotonic() - began
            log_progress(logger, progress, "puppets: %d/%d clips, %.0f s", done, len(specs), seconds)
    return written


def _run(specs: Sequence[SceneSpec], out_uri: str, workers: int) -> Iterator[WrittenClip | SetAside]:
    if workers == 1:
        yield from (write_clip(spec, out_uri) for spec in specs)
        return
    # The calling process is not forked, since it may have threads (torch, Ray) whose locks would be copied. The
    # fork server imports this module once for all workers.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(workers, context, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        futures = [pool.submit(write_clip, spec, out_uri) for spec in specs]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _write_manifest(
    out_uri: str, fields: dict[str, Any], config: PuppetsConfig, seed: int, written: list[WrittenClip]
) -> None:
    facts: dict[str, Any] = {"config": config.model_dump(mode="json"), "seed": seed}
    files = {clip.path: {"frames": clip.frames, "sha256": clip.sha256} for clip in written}
    storage.write_manifest(
        out_uri,
        KIND,
        SCHEMA,
        config_digest=digest(facts),
        synthetic=True,
        files=files,
        **fields,
        **facts,
    )


def _remove_stale(old: list[str], written: set[str]) -> None:
    """Removes clips of an earlier corpus that this one does not contain."""
    keep = {path for name in written for path in (name, name.removesuffix(".mp4") + ".json")}
    for uri in old:
        is_clip = uri.endswith((".mp4", ".json")) and not uri.endswith("/" + storage.MANIFEST)
        if is_clip and "/".join(uri.rsplit("/", 2)[-2:]) not in keep:
            storage.remove(uri)
