"""Makes the puppets' corpus: MP4 files, each with a truth file beside it.

    OUT/manifest.json                                kind "puppets"
    OUT/<speaker>/<emotion>-<sentence number>.mp4
    OUT/<speaker>/<emotion>-<sentence number>.json   speaker, emotion, sentence, phonemes, landmarks, mouth_opening

Every clip is made from ``(seed, speaker, emotion, sentence)`` alone, so neither the number of processes nor their order
changes a byte.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from s2v_ray import storage
from s2v_ray.config import PuppetsConfig, digest
from s2v_ray.media.timing import FPS
from s2v_ray.media.video import SYNTHETIC, write_mp4
from s2v_ray.puppets.face import EXPRESSIONS, Expression, Face, Moment, draw, rest_landmarks
from s2v_ray.puppets.mouth import mouth_track
from s2v_ray.puppets.pen import Pose
from s2v_ray.puppets.voice import ACCENTS, RATE, Speech, Voice, speak

KIND, SCHEMA = "puppets", 1
VARIANTS = 4
"""The pool of sentences is so many times what one speaker says: speakers share sentences, none says them all."""
SAMPLES_PER_FRAME = RATE // FPS

_TOLD_BY = {"build": 2.0, "throat": 1.0, "nose_tone": 1.0, "vowel": 0.7, "front": 0.7, "twang": 0.7, "bright": 0.7}
"""The traits by which voices are told apart, the accent aside, and how much each weighs."""
TRAITS = (
    *_TOLD_BY, "accent", "pitch", "breath", "rough", "tempo",
    "skin", "eyes", "background", "shirt", "hair", "style", "hat", "beard", "width", "chin", "jaw", "eye_size", "slant",
    "brow", "nose", "nose_size", "lips", "ears", "freckles", "glasses",
)  # fmt: skip
_CANDIDATES = 200
"""Draws of 24 speakers' traits to choose from; fewer where there are more speakers, as the comparison takes the square of their number."""


@dataclass(frozen=True)
class Puppet:
    """One speaker: a voice and a face from the same traits."""

    name: str
    voice: Voice
    face: Face


@dataclass(frozen=True)
class Job:
    """One clip to make."""

    seed: int
    speaker: int
    emotion: str
    number: int
    sentence: str
    config: PuppetsConfig

    @property
    def name(self) -> str:
        return f"{self.emotion}-{self.number:02d}"


@functools.lru_cache(maxsize=4)
def draw_traits(seed: int, count: int) -> tuple[dict[str, float], ...]:
    """The traits of ``count`` speakers, each in [0, 1), spread evenly over the speakers (a Latin hypercube).

    Of ``_CANDIDATES`` drawn, the one whose two most similar voices are farthest apart is taken (maximin; Johnson, Moore
    and Ylvisaker 1990), so that nobody has to be told from a near double.
    """
    rng = np.random.default_rng([seed, 1])
    best: np.ndarray = np.empty(0)
    best_distance = -1.0
    for _ in range(max(_CANDIDATES * 24 // max(count, 24), 4)):
        ranks = rng.permuted(np.tile(np.arange(count)[:, None], len(TRAITS)), axis=0)
        drawn = (ranks + rng.uniform(0.2, 0.8, ranks.shape)) / count
        told = drawn[:, : len(_TOLD_BY)] * list(_TOLD_BY.values())
        told = np.concatenate(
            [told, 0.5 * np.eye(len(ACCENTS))[(drawn[:, len(_TOLD_BY)] * len(ACCENTS)).astype(int)]], 1
        )
        distance = ((told[:, None] - told[None]) ** 2).sum(2)[~np.eye(count, dtype=bool)].min()
        if distance > best_distance:
            best, best_distance = drawn, distance
    return tuple({name: float(value) for name, value in zip(TRAITS, row, strict=True)} for row in best)


def make_puppet(seed: int, index: int, count: int) -> Puppet:
    """Speaker ``index`` of ``count``."""
    traits = draw_traits(seed, count)[index]
    return Puppet(f"puppet{index:03d}", Voice.from_traits(traits), Face.from_traits(traits))


_SUBJECTS = (
    "my brother", "the old captain", "our neighbour", "a clever fox", "her best friend", "the baker", "your teacher", "the little robot",
    "that funny uncle", "the mayor", "a famous painter", "my grandmother", "the young pilot", "every farmer", "a shy giraffe", "the whole village",
)  # fmt: skip
_VERBS = (
    "found", "painted", "bought", "carried", "followed", "borrowed", "polished", "hid", "ate", "made", "washed", "loves", "wants", "forgot", "saw", "fixed",
)  # fmt: skip
_OBJECTS = (
    "a purple fish", "five warm apples", "the broken violin", "some fresh bread", "a very big map", "the wooden boat", "two yellow umbrellas",
    "a bowl of soup", "the missing key", "my favourite hat", "an enormous pumpkin", "the fastest bike", "seven smooth pebbles", "a photo of you",
    "the mouse in the box", "a pair of shoes",
)  # fmt: skip
_PLACES = (
    "in the garden", "before lunch", "at the market", "on Monday", "near the bridge", "for the party", "by the river", "after the show",
    "in a hurry", "above the shop", "with both hands", "this evening", "under the moon", "from the museum", "at half past four", "over there",
)  # fmt: skip


def sentences(count: int, seed: int) -> list[str]:
    """``count`` different English sentences of about 2 s. Words are dealt in turn, so that few are missing from any dozen."""
    rng = np.random.default_rng([seed, 2])
    found: dict[str, None] = {}
    while len(found) < count:
        decks = [rng.permutation(len(words)) for words in (_SUBJECTS, _VERBS, _OBJECTS, _PLACES)]
        for s, v, o, p in zip(*decks, strict=True):
            words = f"{_SUBJECTS[s]} {_VERBS[v]} {_OBJECTS[o]}"
            # a sad speaker takes a third longer: a short place fits beside a short rest only
            found.setdefault((words if len(words) > 34 else f"{words} {_PLACES[p]}").capitalize(), None)
    return list(found)[:count]


def jobs(config: PuppetsConfig, seed: int) -> list[Job]:
    """All clips of a corpus. Each speaker says ``config.sentences`` of the pool, each with every emotion."""
    pool = sentences(VARIANTS * config.sentences, seed)
    said = np.empty((config.sentences, config.speakers), int)
    for slot in range(config.sentences):
        order = np.random.default_rng([seed, 3, slot]).permutation(config.speakers)
        said[slot] = slot * VARIANTS + order % VARIANTS
    return [
        Job(seed, speaker, emotion, int(said[slot, speaker]), pool[said[slot, speaker]], config)
        for speaker in range(config.speakers)
        for slot in range(config.sentences)
        for emotion in config.emotions
    ]


def make_puppets(
    out_uri: str, config: PuppetsConfig, seed: int, progress: Callable[[str], None] = print, workers: int | None = None
) -> dict[str, Any]:
    """Makes the whole corpus under ``out_uri``; an older puppets' corpus there is replaced.

    Args:
        out_uri: folder, local or ``s3://``.
        workers: processes; default the CPUs this process may use. The files do not depend on it.

    Returns:
        ``clips``, ``speakers``, ``emotions``, ``sentences``, ``frames``, ``seconds`` (of video), ``wall_seconds``, ``uri``.

    Raises:
        ArtifactError: ``out_uri`` cannot be written, or something else lies there.
        ValueError: the same emotion twice.
    """
    if len(set(config.emotions)) != len(config.emotions) or not config.emotions:
        raise ValueError(f"puppets.emotions must name each emotion once, not {', '.join(config.emotions) or 'none'}")
    out_uri = storage.absolute(out_uri)
    storage.check_writable(out_uri)
    old = storage.list_files(out_uri)
    manifest = storage.join(out_uri, storage.MANIFEST)
    if old and not (storage.exists(manifest) and storage.read_json(manifest).get("kind") == KIND):
        raise storage.ArtifactError(f"{out_uri} holds something that is not a puppets' corpus: name an empty folder")
    storage.remove(manifest)  # no manifest: not whole

    begin = time.monotonic()
    todo = jobs(config, seed)
    workers = min(workers or len(os.sched_getaffinity(0)), len(todo))
    progress(
        f"puppets: {config.speakers} speakers, {len(config.emotions)} emotions, {len(todo)} clips, {workers} processes"
    )
    frames, clips = 0, {}
    for done, (path, entry) in enumerate(_run(todo, out_uri, workers), 1):
        clips[path] = entry
        frames += entry["frames"]
        if done % max(len(todo) // 10, 1) == 0:
            progress(f"puppets: {done}/{len(todo)} clips, {time.monotonic() - begin:.0f} s")
    _remove_stale(out_uri, old, set(clips))
    counts = {
        "clips": len(todo),
        "speakers": config.speakers,
        "emotions": len(config.emotions),
        "sentences": len({job.sentence for job in todo}),
        "frames": frames,
        "seconds": round(frames / FPS, 2),
    }
    facts: dict[str, Any] = {"config": config.model_dump(mode="json"), "seed": seed}
    files = dict(sorted(clips.items()))
    storage.write_manifest(
        out_uri,
        KIND,
        SCHEMA,
        config_digest=digest(facts),
        parents={},
        synthetic=True,
        counts=counts,
        files=files,
        **facts,
    )
    wall = round(time.monotonic() - begin, 2)
    progress(f"puppets: {len(todo)} clips, {counts['seconds']:.0f} s of video, in {wall:.0f} s -> {out_uri}")
    return {**counts, "wall_seconds": wall, "uri": out_uri}


def _run(todo: list[Job], out_uri: str, workers: int) -> Iterator[tuple[str, dict[str, Any]]]:
    if workers == 1:
        yield from (make_clip(job, out_uri) for job in todo)
        return
    # no fork of the caller, who may have threads (torch, Ray) whose locks would be copied; the server imports once for all
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(workers, context, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        futures = [pool.submit(make_clip, job, out_uri) for job in todo]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _remove_stale(out_uri: str, old: list[str], made: set[str]) -> None:
    """Removes clips of an earlier corpus that are no part of this one."""
    keep = {path for name in made for path in (name, name.removesuffix(".mp4") + ".json")}
    for uri in old:
        if (
            uri.endswith((".mp4", ".json"))
            and "/".join(uri.rsplit("/", 2)[-2:]) not in keep
            and not uri.endswith("/" + storage.MANIFEST)
        ):
            storage.remove(uri)


def make_clip(job: Job, out_uri: str) -> tuple[str, dict[str, Any]]:
    """Makes and writes one clip and its truth; its path under ``out_uri``, and its line of the manifest."""
    puppet = make_puppet(job.seed, job.speaker, job.config.speakers)
    speech, frames, truth = render(puppet, job)
    path = f"{puppet.name}/{job.name}.mp4"
    with tempfile.TemporaryDirectory() as folder:
        local = str(Path(folder) / "clip.mp4")
        write_mp4(
            local,
            frames,
            speech,
            sample_rate=RATE,
            fps=FPS,
            metadata={**SYNTHETIC, "title": f"{puppet.name}, {job.emotion}: {job.sentence}"},
            crf=16,
        )
        data = Path(local).read_bytes()
    storage.write_bytes(storage.join(out_uri, path), data)
    storage.write_json(storage.join(out_uri, path.removesuffix(".mp4") + ".json"), truth)
    return path, {"frames": len(truth["mouth_opening"]), "sha256": storage.sha256(data)}


def render(puppet: Puppet, job: Job) -> tuple[np.ndarray, Iterator[np.ndarray], dict[str, Any]]:
    """Speech float32 ``[T * 882]`` at ``voice.RATE``, T frames uint8 ``[S, S, 3]`` as they are drawn, and the truth file's content."""
    speech = _speak_within(puppet.voice, job)
    count = -(-len(speech.samples) // SAMPLES_PER_FRAME)
    samples = np.pad(speech.samples, (0, count * SAMPLES_PER_FRAME - len(speech.samples)))
    rng = np.random.default_rng([job.seed, 4, job.speaker, list(EXPRESSIONS).index(job.emotion), job.number])
    expression = EXPRESSIONS[job.emotion].scaled(rng.uniform(0.9, 1.1))
    moments = _moments(speech, expression, count, rng)
    poses = _poses(count, job.config.size, rng)
    truth = {
        "speaker": puppet.name,
        "emotion": job.emotion,
        "sentence": job.sentence,
        "phonemes": [
            {"phoneme": p.phoneme, "start": round(p.start, 4), "end": round(p.end, 4)} for p in speech.phonemes
        ],
        "landmarks": [rest_landmarks(pose).round(3).tolist() for pose in poses],
        "mouth_opening": [round(m.opening, 4) for m in moments],
    }
    frames = (draw(puppet.face, expression, m, pose, job.config.size) for m, pose in zip(moments, poses, strict=True))
    return samples, frames, truth


def _speak_within(voice: Voice, job: Job) -> Speech:
    """The sentence, without its last words where it would take longer than ``max_seconds``; one word is always said."""
    words = job.sentence.split()
    for last in range(len(words), 0, -1):
        speech = speak(voice, job.emotion, " ".join(words[:last]))
        if len(speech.samples) <= job.config.max_seconds * RATE:
            break
    return speech


def _moments(speech: Speech, expression: Expression, count: int, rng: np.random.Generator) -> list[Moment]:
    track = mouth_track(speech.phonemes, count)
    opening = (
        track.opening * expression.gain + expression.part * (1.0 - track.closed) * (1.0 - 0.6 * track.opening)
    ).clip(0.0, 1.0)
    columns = (
        opening,
        track.width,
        track.rounding,
        track.tuck,
        _blinks(count, rng),
        _drift(count, 0.9, rng),
        _drift(count, 1.0, rng),
    )
    return [Moment(*row) for row in np.stack(columns, 1).tolist()]


def _blinks(count: int, rng: np.random.Generator) -> np.ndarray:
    """0 open, 1 shut: a blink of about 0.2 s every 1.5 to 4 s."""
    at = (np.arange(count) + 0.5) / FPS
    shut = np.zeros(count)
    moment = rng.uniform(0.2, 2.5)
    while moment < at[-1]:
        shut = np.maximum(shut, 1.0 - np.abs(at - moment) / 0.10)
        moment += rng.uniform(1.5, 4.0)
    return np.sqrt(shut.clip(0.0))


def _drift(count: int, size: float, rng: np.random.Generator) -> np.ndarray:
    """A slow wander within about ``size`` either side of 0."""
    at = np.arange(count) / FPS
    rates, phases = rng.uniform(0.15, 0.8, 3), rng.uniform(0.0, 2.0 * np.pi, 3)
    return size * np.sin(2.0 * np.pi * rates[:, None] * at + phases[:, None]).mean(0)


def _poses(count: int, size: int, rng: np.random.Generator) -> list[Pose]:
    """Slight motion of the head around a place that differs from clip to clip: a few pixels, a few degrees."""
    dx, dy = rng.uniform(-0.015, 0.015, 2)
    x = size * (0.5 + dx + _drift(count, 0.03, rng))
    y = size * (0.44 + dy + _drift(count, 0.02, rng))
    scale = size * 0.235 * (1.0 + rng.uniform(-0.02, 0.02) + _drift(count, 0.03, rng))
    roll = np.radians(rng.uniform(-1.5, 1.5) + _drift(count, 5.0, rng))
    return [Pose(*row) for row in np.stack((x, y, scale, roll), 1).tolist()]
