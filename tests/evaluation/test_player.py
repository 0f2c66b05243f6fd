"""Videos that play in sync."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import numpy as np

from s2v_ray.evaluation.player import MAX_FRAMES, PlayedClip, label_of, player
from s2v_ray.media.video import read_video


def clip(label: str, frames: int) -> PlayedClip:
    rows = {
        "real <b>": np.full((frames, 32, 32, 3), 200, np.uint8),
        "made": np.full((frames + 3, 32, 32, 3), 50, np.uint8),
    }
    return PlayedClip(label, rows, np.zeros((frames + 3) * 640, np.float32))


def test_a_clip_is_named_by_the_labels_that_are_known() -> None:
    assert label_of("anna", "", "bin blue") == "anna, bin blue"


def test_every_row_is_a_video_of_the_shortest_length_and_the_first_has_the_sound(tmp_path: Path) -> None:
    page = player([clip("one", 12), clip("two", MAX_FRAMES + 20)])
    assert "real &lt;b&gt;" in page and "<b>" not in page
    assert re.findall(r'data-frames="(\d+)"', page) == ["12", str(MAX_FRAMES)]
    assert re.findall(r">(one|two)</option>", page) == ["one", "two"]
    lengths = []
    for i, data in enumerate(re.findall(r"data:video/mp4;base64,([^\"]+)", page)):
        file = tmp_path / f"{i}.mp4"
        file.write_bytes(base64.b64decode(data))
        assert (b"soun" in file.read_bytes()) == (i % 2 == 0)
        lengths.append(len(read_video(str(file)).frames))
    assert lengths == [12, 12, MAX_FRAMES, MAX_FRAMES]


def test_without_clips_there_is_no_player() -> None:
    assert player([]) == ""
    assert "<select>" not in player([clip("one", 5)])
