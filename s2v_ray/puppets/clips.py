"""One clip of the puppets' corpus: speech, frames and ground truth.

A spec says which clip to make: ``ClipSpec`` of a synthetic voice, ``TakeSpec`` of a recording. It makes a ``Scene``, of
which the frames are drawn.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from s2v_ray import storage
from s2v_ray.config import PuppetsConfig
from s2v_ray.media.timing import FPS, SAMPLE_RATE
from s2v_ray.media.video import SYNTHETIC, write_mp4
from s2v_ray.puppets.canvas import Pose
from s2v_ray.puppets.drawing import FrameState, draw, rest_landmarks
from s2v_ray.puppets.espeak import RATE
from s2v_ray.puppets.expression import EXPRESSIONS, Expression
from s2v_ray.puppets.face import Face
from s2v_ray.puppets.mouth import mouth_track
from s2v_ray.puppets.recordings import Recording, SetAside, UnusableRecordingError, read_recording
from s2v_ray.puppets.traits import make_actor_face, make_puppet
from s2v_ray.puppets.voice import Phoneme, Speech, Voice, speak
from s2v_ray.puppets.warping import align_phonemes

SAMPLES_PER_FRAME = RATE // FPS
"""Samples per video frame of synthetic speech (882)."""
_ACTED = {False: 0.9, True: 1.1}  # factor on the expression by whether the emotion is acted strongly


@dataclass(frozen=True)
class Scene:
    """A clip before it is drawn.

    Attributes:
        speaker: name of the speaker.
        face: of the speaker.
        emotion: of the clip.
        sentence: the text.
        speech: the utterance.
        size: side of the video, pixels.
        seed: of blinks, poses and the strength of the expression.
        strength: factor on the expression.
    """

    speaker: str
    face: Face
    emotion: str
    sentence: str
    speech: Speech
    size: int
    seed: tuple[int, ...]
    strength: float = 1.0


class SceneSpec(Protocol):
    """Says which clip to make."""

    @property
    def path(self) -> str:
        """Path of the video, relative to the corpus."""
        ...

    def scene(self) -> Scene:
        """Makes the clip's speech and chooses its face."""
        ...


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
    def path(self) -> str:
        """Path of the video, relative to the corpus."""
        return f"puppet{self.speaker:03d}/{self.emotion}-{self.number:02d}.mp4"

    def scene(self) -> Scene:
        """Speaks the sentence."""
        puppet = make_puppet(self.seed, self.speaker, self.config.speakers)
        speech = _speak_within(puppet.voice, self)
        seed = (self.seed, 4, self.speaker, list(EXPRESSIONS).index(self.emotion), self.number)
        return Scene(puppet.name, puppet.face, self.emotion, self.sentence, speech, self.config.size, seed)


@dataclass(frozen=True)
class TakeSpec:
    """A clip with a person's voice. It depends on ``seed`` and the recording only.

    Attributes:
        seed: of the corpus.
        recording: the recording.
        config: of the corpus.
    """

    seed: int
    recording: Recording
    config: PuppetsConfig

    @property
    def path(self) -> str:
        """Path of the video, relative to the corpus."""
        return f"actor{self.recording.actor:02d}/{self.recording.emotion}-{self.recording.take}.mp4"

    def scene(self) -> Scene:
        """Reads the recording and finds its phonemes.

        Raises:
            UnusableRecordingError: it cannot be used.
        """
        made = self.recording
        samples = read_recording(made)
        phonemes = align_phonemes(samples, made.sentence)
        speech = cut(Speech(samples, phonemes, SAMPLE_RATE), self.config.max_seconds)
        take = [int(part) for part in made.take.split("-")]
        return Scene(
            speaker=f"actor{made.actor:02d}",
            face=make_actor_face(self.seed, made.actor),
            emotion=made.emotion,
            sentence=made.sentence,
            speech=speech,
            size=self.config.size,
            seed=(self.seed, 5, made.actor, list(EXPRESSIONS).index(made.emotion), *take),
            strength=_ACTED[made.strong],
        )


def cut(speech: Speech, seconds: float) -> Speech:
    """Returns a recording without what follows the last phoneme that ends within ``seconds``, if it is longer."""
    if len(speech.samples) <= seconds * speech.rate:
        return speech
    kept = tuple(p for p in speech.phonemes if p.end <= seconds) or (Phoneme("_", 0.0, seconds),)
    return Speech(speech.samples[: round(kept[-1].end * speech.rate)], kept, speech.rate)


@dataclass(frozen=True)
class WrittenClip:
    """A clip that was written.

    Attributes:
        path: of the video, relative to the corpus.
        speaker, emotion, sentence: labels.
        frames: number of frames.
        sha256: of the video.
    """

    path: str
    speaker: str
    emotion: str
    sentence: str
    frames: int
    sha256: str


def write_clip(spec: SceneSpec, out_uri: str) -> WrittenClip | SetAside:
    """Makes a clip, and writes the video and the file of ground truth under ``out_uri``.

    Returns:
        the clip; for a recording that cannot be used, the reason, and nothing is written.
    """
    try:
        scene = spec.scene()
    except UnusableRecordingError as e:
        assert isinstance(spec, TakeSpec)
        return SetAside(spec.recording.name, "unreadable", str(e))
    speech, frames, truth = render(scene)
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / "clip.mp4"
        title = f"{scene.speaker}, {scene.emotion}: {scene.sentence}"
        metadata = {**SYNTHETIC, "title": title}
        write_mp4(local, frames, speech, sample_rate=scene.speech.rate, fps=FPS, metadata=metadata, crf=16)
        data = local.read_bytes()
    storage.write_bytes(storage.join(out_uri, spec.path), data)
    storage.write_json(storage.join(out_uri, spec.path.removesuffix(".mp4") + ".json"), truth)
    frames_written = len(truth["mouth_opening"])
    return WrittenClip(spec.path, scene.speaker, scene.emotion, scene.sentence, frames_written, storage.sha256(data))


def render(scene: Scene) -> tuple[np.ndarray, Iterator[np.ndarray], dict[str, Any]]:
    """Renders a clip.

    Returns:
        speech, float32 ``[T * rate / 25]``; T frames, uint8 ``[S, S, 3]``, which are drawn while they are iterated; and
        the content of the file of ground truth.
    """
    speech, per_frame = scene.speech, scene.speech.rate // FPS
    count = -(-len(speech.samples) // per_frame)
    samples = np.pad(speech.samples, (0, count * per_frame - len(speech.samples)))
    rng = np.random.default_rng(scene.seed)
    expression = EXPRESSIONS[scene.emotion].scaled(scene.strength * rng.uniform(0.9, 1.1))
    states = _frame_states(speech, expression, count, rng)
    poses = _poses(count, scene.size, rng)
    truth = {
        "speaker": scene.speaker,
        "emotion": scene.emotion,
        "sentence": scene.sentence,
        "phonemes": [
            {"phoneme": p.phoneme, "start": round(p.start, 4), "end": round(p.end, 4)} for p in speech.phonemes
        ],
        "landmarks": [rest_landmarks(pose).round(3).tolist() for pose in poses],
        "mouth_opening": [round(state.opening, 4) for state in states],
    }
    pairs = zip(states, poses, strict=True)
    frames = (draw(scene.face, expression, state, pose, scene.size) for state, pose in pairs)
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
