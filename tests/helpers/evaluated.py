"""Clips whose content is known, and predictors, teachers and judges that generate and measure exactly that content.

A frame shows the speaker as its brightness, the emotion in a patch, and the opening of the mouth as the brightness of
the mouth region. The speech holds the same three values in the first samples of each frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from s2v_ray import shards, storage
from s2v_ray.clip import Clip
from s2v_ray.evaluation.bars import compare_with_bars
from s2v_ray.evaluation.evaluate import evaluate_clips
from s2v_ray.evaluation.results import EVALUATION_SCHEMA, Results
from s2v_ray.evaluation.rows import RowGenerator
from s2v_ray.evaluation.student import student_figures
from s2v_ray.inference.request import GenerationRequest
from s2v_ray.inference.state import SpeechCodes
from s2v_ray.media.regions import mouth_box
from s2v_ray.media.timing import SAMPLES_PER_FRAME
from s2v_ray.models.judges import Judges
from tests.helpers.recipes import tiny_recipe

FRAMES, SIZE = 40, 32
EMOTIONS = ("happy", "sad", "angry")
SPEAKERS = ("ann", "bob")
RECIPE = tiny_recipe(evaluate={"bootstrap": 200, "contact_clips": 2})
Y0, Y1, X0, X1 = mouth_box(SIZE)


def opening_of(speech: np.ndarray) -> np.ndarray:
    return speech.reshape(-1, SAMPLES_PER_FRAME)[:, 0]


def render(opening: np.ndarray, speaker: int, emotion: int) -> np.ndarray:
    frames = np.full((len(opening), SIZE, SIZE, 3), 60 + 80 * speaker, np.uint8)
    frames[:, 8:18, 8:24, 0] = 20 + 60 * emotion
    frames[:, Y0:Y1, X0:X1] = (opening * 250).astype(np.uint8)[:, None, None, None]
    return frames


def make_clip(n: int, speaker: int, emotion: int, labelled: bool = True) -> Clip:
    opening = np.random.default_rng(n).random(FRAMES).astype(np.float32)
    speech = np.zeros(FRAMES * SAMPLES_PER_FRAME, np.float32)
    speech[::SAMPLES_PER_FRAME] = opening
    speech[1::SAMPLES_PER_FRAME], speech[2::SAMPLES_PER_FRAME] = speaker / 10, emotion / 10
    return Clip(
        id=f"c{n}",
        frames=render(opening, speaker, emotion),
        speech=speech,
        speaker=SPEAKERS[speaker],
        emotion=EMOTIONS[emotion] if labelled else "",
        sentence=f"s{n % 4}",
        source="",
        landmarks=np.zeros((FRAMES, 5, 2), np.float32),
        mouth_opening=opening if labelled else None,
    )


def make_clips(count: int = 6, labelled: bool = True) -> list[Clip]:
    return [make_clip(n, n % 2, n % 3, labelled) for n in range(count)]


class ExactPredictor:
    """Generates exactly what the speech holds: optionally ``late`` frames late, or ``always`` with one emotion."""

    emotions = EMOTIONS

    def __init__(self, late: int = 0, always: int | None = None) -> None:
        self.late, self.always = late, always
        self.stills: list[np.ndarray] = []
        self.takes: list[np.ndarray] = []
        self.seeds: list[int] = []

    def generate(self, request: GenerationRequest) -> Iterator[np.ndarray]:
        if request.still is not None:
            self.stills.append(request.still)
        if request.take is not None:
            self.takes.append(request.take)
        self.seeds.append(request.seed)
        codes = self.encode_speech(request.speech)
        assert request.emotion is None or isinstance(request.emotion, str)
        emotion = int(codes.emotion_logits.argmax()) if request.emotion is None else EMOTIONS.index(request.emotion)
        speaker = int((codes.identity if request.identity is None else request.identity)[1] > 0.5)
        opening = np.roll(opening_of(request.speech), self.late)
        frames = render(opening, speaker, emotion if self.always is None else self.always)
        yield from (frames[:16], frames[16:])

    def encode_speech(self, speech: np.ndarray) -> SpeechCodes:
        speaker, emotion = round(float(speech[1]) * 10), round(float(speech[2]) * 10)
        unit = torch.eye(3)
        noise = torch.randn(3, generator=torch.Generator().manual_seed(int(1e6 * speech[0])))
        return SpeechCodes(torch.eye(6)[speaker], unit[emotion] + 0.01 * noise, unit[emotion])


def identity(frames: np.ndarray) -> Tensor:
    """Identity teacher and judge."""
    return torch.eye(6)[torch.from_numpy((frames[:, 0, 0, 0] > 100).astype(int))]


class EmotionJudge:
    labels = EMOTIONS

    def __call__(self, frames: np.ndarray) -> Tensor:
        return torch.eye(3)[torch.from_numpy(((frames[:, 10, 10, 0] - 20) // 60).astype(int))]


def mouth(frames: np.ndarray) -> Tensor:
    """Mouth judge."""
    return torch.from_numpy(frames[:, Y0:Y1, X0:X1].mean(axis=(1, 2, 3), dtype=np.float32) / 250)[:, None]


class SyncJudge:
    """Embeds the opening itself, as an angle."""

    window = 5

    def embed_speech(self, speech: Tensor) -> Tensor:
        return self._embed(speech.reshape(1, -1, SAMPLES_PER_FRAME)[:, :, 0])

    def embed_frames(self, frames: Tensor) -> Tensor:
        return self._embed((frames[:, :, 0, Y0, X0] + 1) * 127.5 / 250)

    def _embed(self, opening: Tensor) -> Tensor:
        angle = opening[:, : opening.shape[1] - self.window + 1] * 3
        return torch.stack([angle.cos(), angle.sin()], -1)


class LandmarkJudge:
    """Two lids of one eye, two lips as far apart as the mouth is bright, and a fixed point; shares of the side."""

    eyelids, lips = ((0, 1),), ((2, 3),)

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        opening = frames[:, Y0, X0, 0] / 250
        points = np.tile([[0.3, 0.40], [0.3, 0.44], [0.5, 0.7], [0.5, 0.7], [0.5, 0.5]], (len(frames), 1, 1))
        points[:, 3, 1] += 0.2 * opening
        return points


JUDGES = Judges(identity, EmotionJudge(), mouth, SyncJudge(), LandmarkJudge())


class FixedTakes:
    """Takes of a list of clips, in its order."""

    def __init__(self, clips: Sequence[Clip], references: Sequence[Clip] = ()) -> None:
        self.clips, self.real = clips, references

    def of(self, clip: Clip, count: int) -> list[Clip]:
        return [other for other in self.clips if other.speaker == clip.speaker and other.id != clip.id][:count]

    def mean_frame(self, clip: Clip) -> np.ndarray | None:
        others = self.of(clip, len(self.clips))
        return np.mean([other.frames.mean(0) for other in others], axis=0).round().astype(np.uint8) if others else None

    def references(self, speaker: str, count: int) -> list[Clip]:
        return [clip for clip in self.real if clip.speaker == speaker][:count]


def write_corpus(folder: Path, train: Sequence[Clip], test: Sequence[Clip], identity_dim: int = 6) -> str:
    """Writes a corpus of two shards for each split, with the identity teacher's outputs; returns its URI."""
    uri = str(folder)
    parts = {"train": train, "test": test}
    for split, clips in parts.items():
        for k in range(2):
            shard = storage.join(uri, split, f"part-{k:05d}.parquet")
            half = clips[k::2]
            shards.write_shard(shard, [shards.encode_clip(c) for c in half])
            codes = [np.eye(identity_dim, dtype=np.float32)[SPEAKERS.index(c.speaker)] for c in half]
            rows = [shards.encode_output(c.id, code) for c, code in zip(half, codes, strict=True)]
            shards.write_shard(shards.outputs_uri(uri, "identity", shard), rows, shards.OUTPUT_SCHEMA)
    splits = {split: {"shards": 2 if split in parts else 0} for split in shards.SPLITS}
    storage.write_manifest(uri, "corpus", shards.CORPUS_SCHEMA, splits=splits, size=SIZE, digest="corpus-digest")
    return uri


def evaluate_known(corpus: str, run: Path, reference: ExactPredictor | None) -> tuple[Results, bytes]:
    """Results and examples of a predictor whose mouth is a frame late, for the bundle of ``run``."""
    measured = make_clips(10)
    generator = RowGenerator(
        ExactPredictor(late=1), reference, identity, RECIPE.seed, FixedTakes(measured, measured), best_of=2
    )
    clips, examples = evaluate_clips(measured, generator, JUDGES, RECIPE)
    student = student_figures(corpus, ExactPredictor(), RECIPE)
    results = Results(
        **clips,
        student=student,
        schema=EVALUATION_SCHEMA,
        corpus=corpus,
        bundle=str(run / "bundle"),
        reference_bundle=None,
        recipe="t<e>st",
        config_digest="d",
        split="test",
        protocol="puppets",
        bars=compare_with_bars(clips, student, "puppets"),
    )
    return results, examples
