"""Inspection of a corpus with known counts, levels and pictures."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from s2v_ray import shards, storage
from s2v_ray.clip import Clip
from s2v_ray.ingest.inspection import inspect_corpus, measure, write_page
from tests.helpers.tiny_corpus import make_corpus
from tests.helpers.videos import make_video


def clip_of(frames: np.ndarray, speech: np.ndarray, landmarks: np.ndarray | None = None) -> Clip:
    points = np.zeros((len(frames), 5, 2), np.float32) if landmarks is None else landmarks
    return Clip("c", frames, speech.astype(np.float32), "s", "", "", "", points)


def test_quality_by_hand() -> None:
    frames = np.full((4, 32, 32, 3), 100, np.uint8)
    frames[:2, 16:] = 200
    tone = 0.5 * np.sqrt(2) * np.sin(2 * np.pi * np.arange(4 * 640) / 64)  # RMS 0.5
    tone[:640] = 0.0
    points = np.zeros((4, 5, 2), np.float32)
    points[::2, :, 0], points[1::2, :, 0] = 3.0, -3.0
    found = measure(clip_of(frames, tone, points))
    assert found.level_db == pytest.approx(10 * np.log10(0.25 * 0.75), abs=1e-3)
    assert (found.silent, found.clipped) == (0.25, 0.0)
    assert found.brightness == pytest.approx((150 + 150 + 100 + 100) / 4)
    assert found.motion == pytest.approx(3.0)
    assert measure(clip_of(frames[2:], tone[1280:])).sharpness == 0.0
    assert found.sharpness > 0
    assert measure(clip_of(frames, np.sign(tone))).clipped == pytest.approx(0.75, abs=0.02)


def test_all_clips_are_counted_and_a_sample_is_decoded(tmp_path: Path) -> None:
    corpus = make_corpus(str(tmp_path))  # 40 clips for training, 4 for validation, of 20, 30 and 45 frames
    found = inspect_corpus(corpus, sampled=10)
    assert found.counts["split"] == {"train": 40, "val": 4}
    assert found.counts["speaker"] == {f"speaker{n}": 11 for n in range(4)}
    assert sum(found.counts["emotion"].values()) == 44
    assert found.counts["seconds"] == {"1": 30, "2": 14}
    assert len(found.quality["level_db"]) == 10
    assert found.clips[0].id == "clip0000" and found.clips[-1].id == "clip0043"
    summary = found.summary()
    assert summary["clips"] == 44
    assert summary["quality"]["motion"] == {"p05": 0.0, "median": 0.0, "p95": 0.0}


def with_rejects(tmp_path: Path, count: int = 3) -> str:
    corpus, source = make_corpus(str(tmp_path / "corpus"), clips=4), tmp_path / "source"
    picture = np.full((80, 160, 3), 200, np.uint8)
    make_video(source / "two<b>.avi", [0.0, 0.04], [picture, picture])
    (source / "broken.avi").write_bytes(b"no video")
    rows = [
        {"source": "two<b>.avi", "reason": "several_faces", "detail": "2 faces"},
        {"source": "broken.avi", "reason": "unreadable", "detail": "not a media file"},
    ]
    rows += [{"source": f"gone{n}.avi", "reason": "no_sound", "detail": ""} for n in range(count - 2)]
    shards.write_shard(storage.join(corpus, "rejects.parquet"), rows, shards.REJECT_SCHEMA)
    manifest = storage.read_json(storage.join(corpus, "manifest.json"))
    counts = {"several_faces": 1, "unreadable": 1, "no_sound": count - 2}
    manifest |= {"rejects": counts, "source": {"layout": "folder", "uri": str(source)}}
    storage.write_json(storage.join(corpus, "manifest.json"), manifest)
    return corpus


def test_rejects_have_reasons_and_pictures(tmp_path: Path) -> None:
    found = inspect_corpus(with_rejects(tmp_path))
    assert [(r.source, r.reason, r.detail) for r in found.rejects[:2]] == [
        ("two<b>.avi", "several_faces", "2 faces"),
        ("broken.avi", "unreadable", "not a media file"),
    ]
    picture, *others = [r.picture for r in found.rejects]
    assert shards.decode_frames([picture]).shape == (1, 64, 128, 3)
    assert abs(int(shards.decode_frames([picture]).mean()) - 200) < 6
    assert others == [b"", b""]


def test_the_page_is_self_contained_and_escaped(tmp_path: Path) -> None:
    corpus = with_rejects(tmp_path, 600)
    page = Path(write_page(inspect_corpus(corpus), str(tmp_path / "page.html"))).read_text()
    assert "two&lt;b&gt;.avi" in page and "two<b>" not in page
    assert "Rejected files: 600" in page and "The first 500 are listed" in page
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)
    assert page.count("<video") == 8
    assert "level of the speech, dB below full scale" in page


def test_a_corpus_without_rejects_or_clips(tmp_path: Path) -> None:
    corpus = make_corpus(str(tmp_path / "corpus"), clips=0, val=0)
    page = Path(write_page(inspect_corpus(corpus), str(tmp_path / "page.html"))).read_text()
    assert "Corpus: 0 clips" in page and "<p>None.</p>" in page
    with pytest.raises(storage.ArtifactError):
        inspect_corpus(str(tmp_path))
