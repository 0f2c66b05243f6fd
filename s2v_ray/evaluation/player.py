"""Videos of the rows of a report that play in sync, as part of a page: HTML with its style and script."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import jinja2
import numpy as np

from s2v_ray.media.timing import FPS, frames_to_samples
from s2v_ray.media.video import SYNTHETIC, write_mp4

MAX_FRAMES = 100
"""Longest part of a clip that is embedded."""


@dataclass(frozen=True)
class PlayedClip:
    """Rows that belong to the same speech.

    Attributes:
        label: name of the clip, or of what it shows.
        rows: label -> uint8 ``[T, S, S, 3]``.
        speech: float32 ``[T * 640]``, the sound of all rows.
    """

    label: str
    rows: Mapping[str, np.ndarray]
    speech: np.ndarray


def label_of(speaker: str, emotion: str, sentence: str) -> str:
    """Returns the name of a clip: those of its labels that are known."""
    return ", ".join(filter(None, (speaker, emotion, sentence)))


def player(clips: Sequence[PlayedClip]) -> str:
    """Returns HTML in which the rows of a clip play together, with the sound of the first; "" without clips.

    One clip is shown at a time. Space plays and pauses, the arrow keys step by one frame. Everything is embedded: the
    first ``MAX_FRAMES`` frames of each row as MP4, marked as synthetic.
    """
    if not clips:
        return ""
    template = resources.files("s2v_ray.evaluation") / "templates" / "player.html"
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    shown = [(clip.label, _frames(clip), _videos(clip)) for clip in clips]
    return environment.from_string(template.read_text()).render(clips=shown, fps=FPS)


def _frames(clip: PlayedClip) -> int:
    return min(MAX_FRAMES, *(len(frames) for frames in clip.rows.values()))


def _videos(clip: PlayedClip) -> list[tuple[str, str]]:
    """Label and MP4 in base64 of each row; the first has the sound."""
    count = _frames(clip)
    videos = []
    with tempfile.TemporaryDirectory(prefix="s2v-player-") as folder:
        path = Path(folder) / "row.mp4"
        for i, (label, frames) in enumerate(clip.rows.items()):
            speech = None if i else clip.speech[: frames_to_samples(count)]
            write_mp4(path, frames[:count], speech, metadata=SYNTHETIC)
            videos.append((label, base64.b64encode(path.read_bytes()).decode()))
    return videos
