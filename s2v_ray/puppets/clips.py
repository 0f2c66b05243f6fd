"""One clip of the puppets' corpus: speech, frames and ground truth."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from s2v_ray import storage
from s2v_ray.config import PuppetsConfig
from s2v_ray.media.timing import FPS
from s2v_ray.media.video import SYNTHETIC, write_mp4
from s2v_ray.puppets.canvas import Pose
from s2v_ray.puppets.drawing import FrameState, draw, rest_landmarks
from s2v_ray.puppets.espeak import RATE
from s2v_ray.puppets.expression import EXPRESSIONS, Expression
from s2v_ray.puppets.mouth import mouth_track
from s2v_ray.puppets.traits import Puppet, make_puppet
from s2v_ray.puppets.voice import Speech, Voice, speak

SAMPLES_PER_FRAME = RATE // FPS
"""Samples per video frame (882)."""


@dataclass(frozen=True)
class ClipSpec:
    """A clip to make. It depends on ``seed``, ``speaker``, ``emotion`` and ``number`` only.

    Attributes:
        seed: of the corpus.
        speaker: index of the speaker.
        emotion: of the clip.
        number: of the sentence.
        sentence: the text.
        config: of the corpus.
    """

    seed: int
    speaker: int
    emotion: str
    number: int
    sentence: str
    config: PuppetsConfig

    @property
    def name(self) -> str:
        """Name of its file without suffix."""
        return f"{self.emotion}-{self.number:02d}"


@dataclass(frozen=True)
class WrittenClip:
    """A clip that was written.

    Attributes:
        path: of the video, relative to the corpus.
        frames: number of frames.
        sha256: of the video.
    """

    path: str
    frames: int
    sha256: str


def write_clip(spec: ClipSpec, out_uri: str) -> WrittenClip:
    """Makes a clip, and writes the video and the file of ground truth under ``out_uri``."""
    puppet = make_puppet(spec.seed, spec.speaker, spec.config.speakers)
    speech, frames, truth = render(puppet, spec)
    path = f"{puppet.name}/{spec.name}.mp4"
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / "clip.mp4"
        title = f"{puppet.name}, {spec.emotion}: {spec.sentence}"
        write_mp4(local, frames, speech, sample_rate=RATE, fps=FPS, metadata={**SYNTHETIC, "title": title}, crf=16)
        data = local.read_bytes()
    storage.write_bytes(storage.join(out_uri, path), data)
    storage.write_json(storage.join(out_uri, path.removesuffix(".mp4") + ".json"), truth)
    return WrittenClip(path, len(truth["mouth_opening"]), storage.sha256(data))


def render(puppet: Puppet, spec: ClipSpec) -> tuple[np.ndarray, Iterator[np.ndarray], dict[str, Any]]:
    """Renders a clip.

    Returns:
        speech, float32 ``[T * 882]`` at ``espeak.RATE``; T frames, uint8 ``[S, S, 3]``, which are drawn while they are
        iterated; and the content of the file of ground truth.
    """
    speech = _speak_within(puppet.voice, spec)
    count = -(-len(speech.samples) // SAMPLES_PER_FRAME)
    samples = np.pad(speech.samples, (0, count * SAMPLES_PER_FRAME - len(speech.samples)))
    rng = np.random.default_rng([spec.seed, 4, spec.speaker, list(EXPRESSIONS).index(spec.emotion), spec.number])
    expression = EXPRESSIONS[spec.emotion].scaled(rng.uniform(0.9, 1.1))
    states = _frame_states(speech, expression, count, rng)
    poses = _poses(count, spec.config.size, rng)
    truth = {
        "speaker": puppet.name,
        "emotion": spec.emotion,
        "sentence": spec.sentence,
        "phonemes": [
            {"phoneme": p.phoneme, "start": round(p.start, 4), "end": round(p.end, 4)} for p in speech.phonemes
        ],
        "landmarks": [rest_landmarks(pose).round(3).tolist() for pose in poses],
        "mouth_opening": [round(state.opening, 4) for state in states],
    }
    pairs = zip(states, poses, strict=True)
    frames = (draw(puppet.face, expression, state, pose, spec.config.size) for state, pose in pairs)
    return samples, frames, truth


def _speak_within(voice: Voice, spec: ClipSpec) -> Speech:
    """Speaks the sentence, without its last words if it is longer than ``max_seconds``, but with at least one word."""
    words = spec.sentence.split()
    for last in range(len(words), 0, -1):
        speech = speak(voice, spec.emotion, " ".join(words[:last]))
        if len(speech.samples) <= spec.config.max_seconds * RATE:
            break
    return speech


def _frame_states(speech: Speech, expression: Expression, count: int, rng: np.random.Generator) -> list[FrameState]:
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
    return [FrameState(*row) for row in np.stack(columns, 1).tolist()]


def _blinks(count: int, rng: np.random.Generator) -> np.ndarray:
    """Returns blinks of about 0.2 s every 1.5 to 4 s: 0 is open, 1 is closed."""
    at = (np.arange(count) + 0.5) / FPS
    closed = np.zeros(count)
    time = rng.uniform(0.2, 2.5)
    while time < at[-1]:
        closed = np.maximum(closed, 1.0 - np.abs(at - time) / 0.10)
        time += rng.uniform(1.5, 4.0)
    blinks: np.ndarray = np.sqrt(closed.clip(0.0))
    return blinks


def _drift(count: int, size: float, rng: np.random.Generator) -> np.ndarray:
    """Returns a slow random motion within about -size..size."""
    at = np.arange(count) / FPS
    rates, phases = rng.uniform(0.15, 0.8, 3), rng.uniform(0.0, 2.0 * np.pi, 3)
    motion: np.ndarray = size * np.sin(2.0 * np.pi * rates[:, None] * at + phases[:, None]).mean(0)
    return motion


def _poses(count: int, size: int, rng: np.random.Generator) -> list[Pose]:
    """Returns a slight motion of the head, a few pixels and degrees, around a pose that differs from clip to clip."""
    dx, dy = rng.uniform(-0.015, 0.015, 2)
    x = size * (0.5 + dx + _drift(count, 0.03, rng))
    y = size * (0.44 + dy + _drift(count, 0.02, rng))
    scale = size * 0.235 * (1.0 + rng.uniform(-0.02, 0.02) + _drift(count, 0.03, rng))
    roll = np.radians(rng.uniform(-1.5, 1.5) + _drift(count, 5.0, rng))
    return [Pose(*row) for row in np.stack((x, y, scale, roll), 1).tolist()]
