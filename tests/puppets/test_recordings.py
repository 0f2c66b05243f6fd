"""Recordings are listed by their names; what cannot be used is set aside with a reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from s2v_ray import storage
from s2v_ray.puppets.recordings import Recording, UnusableRecordingError, list_recordings, read_recording
from tests.helpers.recorded import record
from tests.helpers.sounds import speech, wav


def test_recordings_are_listed_with_their_labels(tmp_path: Path) -> None:
    record(tmp_path, 1, "neutral")
    record(tmp_path, 12, "fearful", statement=2, intensity=2, repetition=2)
    record(tmp_path, 12, "disgusted")
    (tmp_path / "README.txt").write_text("not a recording")
    found = list_recordings(str(tmp_path), ("neutral", "fearful"))
    assert [(r.actor, r.emotion, r.sentence, r.strong, r.take) for r in found.used] == [
        (1, "neutral", "kids are talking by the door", False, "01-01-01"),
        (12, "fearful", "dogs are sitting by the door", True, "02-02-02"),
    ]
    assert found.used[1].name == "Actor_12/03-01-06-02-02-02-12.wav"
    assert (found.other_emotions, found.set_aside) == (1, [])


def test_files_that_cannot_be_used_are_set_aside(tmp_path: Path) -> None:
    good = record(tmp_path, 1, "neutral")
    folder = good.parent
    for name in ("holiday.wav", "03-01-09-01-01-01-01.wav", "03-02-01-01-01-01-01.wav", "02-01-01-01-01-01-02.mp4"):
        (folder / name).write_bytes(b"")
    (tmp_path / good.name).write_bytes(good.read_bytes())
    found = list_recordings(str(tmp_path), ("neutral",))
    assert len(found.used) == 1
    assert {(s.name.rpartition("/")[2], s.reason) for s in found.set_aside} == {
        ("holiday.wav", "other_name"),
        ("03-01-09-01-01-01-01.wav", "other_name"),
        ("03-02-01-01-01-01-01.wav", "not_spoken"),
        ("02-01-01-01-01-01-02.mp4", "not_spoken"),
        (good.name, "duplicate"),
    }


def test_a_folder_without_recordings_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(storage.ArtifactError, match=r"there are no recordings at .*missing: .* puppets\.voices"):
        list_recordings(str(tmp_path / "missing"), ("neutral",))
    record(tmp_path, 1, "sad")
    (tmp_path / "x.wav").write_bytes(b"")
    with pytest.raises(storage.ArtifactError, match="1 have emotions that .* 1 are set aside; the first: x.wav"):
        list_recordings(str(tmp_path), ("neutral",))


def opened(path: Path) -> Recording:
    return Recording(str(path), path.name, 1, "neutral", "kids are talking by the door", False, "01-01-01")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read"),
        (b"no audio " * 200, "cannot be read"),
        (wav(np.zeros(16_000, np.float32)), "silent"),
        (wav(speech(0.3)), "0.30 s long"),
    ],
)
def test_unusable_recordings(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.wav").write_bytes(content)
    with pytest.raises(UnusableRecordingError, match=message):
        read_recording(opened(tmp_path / "x.wav"))


def test_a_recording_is_read_at_16_khz(tmp_path: Path) -> None:
    (tmp_path / "x.wav").write_bytes(wav(speech(1.0), 16_000))
    assert len(read_recording(opened(tmp_path / "x.wav"))) == 16_000


def test_an_error_of_the_object_store_does_not_set_a_recording_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unavailable(uri: str, folder: str) -> str:
        raise storage.StoreError("cannot read s3://b/x.wav: no answer")

    monkeypatch.setattr(storage, "download", unavailable)
    with pytest.raises(storage.StoreError, match="no answer"):
        read_recording(opened(tmp_path / "x.wav"))
