from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from s2v_ray.clip import Clip, ClipBatch, part_sizes, to_pixels, to_unit
from s2v_ray.media.timing import MEL_PER_FRAME, SAMPLES_PER_FRAME, frames_to_samples, samples_to_frames


def good(**changes: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "id": "x",
        "frames": np.zeros((3, 8, 8, 3), np.uint8),
        "speech": np.zeros(3 * 640, np.float32),
        "speaker": "anna",
        "emotion": "",
        "sentence": "",
        "source": "a.mp4",
        "landmarks": np.zeros((3, 5, 2), np.float32),
    }
    return fields | changes


def test_timing() -> None:
    assert (SAMPLES_PER_FRAME, MEL_PER_FRAME, frames_to_samples(25)) == (640, 4, 16_000)
    assert [samples_to_frames(n) for n in (0, 1, 640, 641)] == [0, 1, 1, 2]


def test_a_good_clip_is_taken() -> None:
    assert Clip(**good(mouth_opening=np.zeros(3, np.float32))).id == "x"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": np.zeros((3, 8, 8, 3), np.float32)}, "frames must be uint8"),
        ({"frames": np.zeros((0, 8, 8, 3), np.uint8)}, "frames must be"),
        ({"speech": np.zeros(3 * 640 - 1, np.float32)}, "speech must be float32"),
        ({"speech": np.zeros(3 * 640, np.float64)}, "speech must be float32"),
        ({"speech": np.full(3 * 640, np.nan, np.float32)}, "finite"),
        ({"speech": np.full(3 * 640, 1.01, np.float32)}, r"in \[-1, 1\]"),
        ({"landmarks": np.zeros((2, 5, 2), np.float32)}, "landmarks"),
        ({"mouth_opening": np.zeros(4, np.float32)}, "mouth_opening"),
    ],
)
def test_a_bad_clip_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Clip(**good(**changes))


def test_pixels_survive_the_unit_range() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).expand(1, 16, 16, 3)
    unit = to_unit(pixels)
    assert unit.shape == (1, 3, 16, 16) and float(unit.min()) == -1 and float(unit.max()) == 1
    assert torch.equal(to_pixels(unit), pixels)
    assert int(to_pixels(torch.full((1, 3, 1, 1), 7.0)).max()) == 255


def test_a_batch_in_parts() -> None:
    tensors = {
        name: torch.arange(4.0).view(4, 1)
        for name in ("frames", "speech", "index", "consecutive", "speech_mask", "references", "identity")
    }
    batch = ClipBatch(**tensors, ids=list("abcd"))
    first, second = batch.split(2)
    assert (first.ids, second.ids, second.speech.tolist(), second.identity.tolist(), second.emotion) == (
        ["a", "b"],
        ["c", "d"],
        [[2], [3]],
        [[2], [3]],
        None,
    )
    assert [part.ids for part in batch.split(3)] == [["a"], ["b"], ["c", "d"]]
    assert batch.split(3)[2].speech.tolist() == [[2], [3]]
    with pytest.raises(ValueError, match="4 clips does not divide into 5 parts"):
        batch.split(5)


def test_sizes_of_parts_differ_by_at_most_one() -> None:
    assert part_sizes(128, 5) == [25, 26, 25, 26, 26] and part_sizes(128, 8) == [16] * 8
    assert all(sum(part_sizes(128, parts)) == 128 for parts in range(1, 129))
