"""``examples.npz`` of an evaluation: frames and speech of a few clips, from which the report makes its images."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from s2v_ray import storage
from s2v_ray.clip import Clip
from s2v_ray.evaluation.player import label_of
from s2v_ray.evaluation.rows import SHOWN_ROWS

FILE = "examples.npz"


@dataclass(frozen=True)
class ClipExample:
    """A clip with its rows that the report shows (``rows.SHOWN_ROWS``).

    Attributes:
        rows: row -> uint8 ``[T, H, W, 3]``.
        speech: float32 ``[T * 640]``.
        label: its name (``player.label_of``).
    """

    rows: dict[str, np.ndarray]
    speech: np.ndarray
    label: str = ""


@dataclass(frozen=True)
class Examples:
    """The examples of an evaluation.

    Attributes:
        clips: some evaluated clips.
        emotions: for some clips, emotion -> uint8 ``[T, H, W, 3]``.
    """

    clips: list[ClipExample]
    emotions: list[dict[str, np.ndarray]]


class _ClipEntry(TypedDict):
    speaker: str
    emotion: str
    sentence: str
    speech: str
    rows: dict[str, str]


class _EmotionEntry(TypedDict):
    speaker: str
    sentence: str
    rows: dict[str, str]


class ExampleWriter:
    """Collects examples. The file holds ``index`` (JSON) and the arrays that it names.

    Attributes:
        emotions: entries of the clips that were added with every emotion.
    """

    def __init__(self) -> None:
        self._clips: list[_ClipEntry] = []
        self.emotions: list[_EmotionEntry] = []
        self._arrays: dict[str, np.ndarray] = {}

    def add(self, clip: Clip, frames: Mapping[str, np.ndarray]) -> None:
        """Adds a clip; ``frames``: row -> frames."""
        prefix = f"clip{len(self._clips)}"
        rows = {row: self._keep(f"{prefix}/{row}", shown) for row, shown in frames.items() if row in SHOWN_ROWS}
        speech = self._keep(f"{prefix}/speech", clip.speech)
        self._clips.append(
            _ClipEntry(speaker=clip.speaker, emotion=clip.emotion, sentence=clip.sentence, speech=speech, rows=rows)
        )

    def add_emotions(self, clip: Clip, frames: Mapping[str, np.ndarray]) -> None:
        """Adds the speech of a clip with every emotion; ``frames``: emotion -> frames."""
        prefix = f"emotions{len(self.emotions)}"
        rows = {emotion: self._keep(f"{prefix}/{emotion}", shown) for emotion, shown in frames.items()}
        self.emotions.append(_EmotionEntry(speaker=clip.speaker, sentence=clip.sentence, rows=rows))

    def encode(self) -> bytes:
        """The bytes of ``examples.npz``."""
        buffer = io.BytesIO()
        index = np.array(json.dumps({"clips": self._clips, "emotions": self.emotions}))
        arrays = {"index": index, **self._arrays}
        np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # numpy: any name but that of an option
        return buffer.getvalue()

    def _keep(self, name: str, values: np.ndarray) -> str:
        self._arrays[name] = values
        return name


def read_examples(out_uri: str) -> Examples:
    """The examples of the evaluation at ``out_uri``.

    Raises:
        ArtifactError: there is no evaluation.
    """
    try:
        data = storage.read_bytes(storage.join(out_uri, FILE))
    except FileNotFoundError:
        raise storage.ArtifactError(f"there is no evaluation at {out_uri}: run `s2v evaluate` first") from None
    with np.load(io.BytesIO(data), allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    index = json.loads(str(arrays["index"]))
    return Examples(
        [
            ClipExample(
                {row: arrays[key] for row, key in clip["rows"].items()},
                arrays[clip["speech"]],
                label_of(clip["speaker"], clip["emotion"], clip["sentence"]),
            )
            for clip in index["clips"]
        ],
        [{emotion: arrays[key] for emotion, key in clip["rows"].items()} for clip in index["emotions"]],
    )
