from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from s2v_ray import storage
from s2v_ray.evaluation.examples import FILE, ExampleWriter, read_examples
from s2v_ray.evaluation.rows import REAL, SPEECH, STILL
from tests.helpers.evaluated import make_clip


def test_examples_are_read_as_they_were_written(tmp_path: Path) -> None:
    clip, writer = make_clip(0, 1, 2), ExampleWriter()
    writer.add(clip, {REAL: clip.frames, STILL: clip.frames, SPEECH: clip.frames[::-1]})
    writer.add_emotions(clip, {"happy": clip.frames, "sad": clip.frames[::-1]})
    storage.write_bytes(str(tmp_path / FILE), writer.encode())
    found = read_examples(str(tmp_path))
    (example,), (emotions,) = found.clips, found.emotions
    assert list(example.rows) == [REAL, SPEECH], "rows that the report does not show are not stored"
    assert np.array_equal(example.rows[SPEECH], clip.frames[::-1])
    assert np.array_equal(example.speech, clip.speech)
    assert list(emotions) == ["happy", "sad"]
    assert np.array_equal(emotions["happy"], clip.frames)


def test_a_missing_evaluation_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(storage.ArtifactError, match="no evaluation"):
        read_examples(str(tmp_path))
