"""The puppets' corpus: ground truth that agrees with the videos, and the same bytes for the same seed."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from s2v_ray import storage
from s2v_ray.config import PuppetsConfig
from s2v_ray.ingest.sources import list_clips as ingest_list
from s2v_ray.logs import progress_of
from s2v_ray.media.video import read_video
from s2v_ray.puppets.corpus import SENTENCE_POOL, list_clips, make_puppets
from s2v_ray.puppets.sentences import make_sentences
from tests.helpers.recorded import record

SMALL = PuppetsConfig(speakers=2, emotions=("neutral", "angry"), sentences=1, size=64, max_seconds=1.2)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("puppets") / "out"
    result = make_puppets(str(out), SMALL, 5, workers=1)
    assert result["clips"] == 4
    assert result["frames"] > 60
    return out


def _files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_bytes_depend_on_the_seed_but_not_on_the_workers(made: Path, tmp_path: Path) -> None:
    make_puppets(str(tmp_path / "again"), SMALL, 5, workers=2)
    assert _files(made) == _files(tmp_path / "again")


def test_another_seed_gives_other_files_and_replaces_old_ones(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    make_puppets(str(out), SMALL, 5, workers=1)
    make_puppets(str(out), SMALL.model_copy(update={"emotions": ("happy",)}), 6, workers=1)
    names = set(_files(out))
    assert names.isdisjoint(set(_files(made)) - {"manifest.json"})
    assert len(names) == 2 * 2 + 1


def test_ground_truth_agrees_with_the_videos(made: Path) -> None:
    videos = sorted(made.rglob("*.mp4"))
    assert len(videos) == 4
    for path in videos:
        truth = json.loads(path.with_suffix(".json").read_text())
        video = read_video(path)
        frames = len(video.frames)
        assert truth["speaker"] == path.parent.name and path.name.startswith(truth["emotion"])
        assert np.shape(truth["landmarks"]) == (frames, 5, 2) and np.shape(truth["mouth_opening"]) == (frames,)
        assert 0.0 <= min(truth["mouth_opening"]) < 0.05 and 0.3 < max(truth["mouth_opening"]) <= 1.0
        assert truth["phonemes"][-1]["end"] <= frames / 25 and frames / 25 <= SMALL.max_seconds + 0.04
        assert video.fps == pytest.approx(25.0)
        assert video.audio is not None
        marks = np.array(truth["landmarks"])
        assert np.linalg.norm(marks[:, 1] - marks[:, 0], axis=1) == pytest.approx(0.235 * 64, rel=0.06)


def test_manifest(made: Path) -> None:
    manifest = storage.read_manifest(str(made), "puppets", 1)
    assert manifest["synthetic"] is True and manifest["counts"]["clips"] == 4 and manifest["seed"] == 5
    for name, entry in manifest["files"].items():
        assert storage.sha256((made / name).read_bytes()) == entry["sha256"]


def test_progress_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="s2v_ray")
    make_puppets(str(tmp_path / "out"), SMALL, 5, workers=1)
    assert caplog.messages[0] == "puppets: 2 speakers, 2 emotions, 4 clips, 1 processes"
    done = [p for r in caplog.records if (p := progress_of(r)) is not None]
    assert [(p.done, p.total, p.unit) for p in done] == [(i, 4, "clips") for i in range(1, 5)]
    assert caplog.messages[-1].startswith("puppets: 4 clips")


@pytest.mark.parametrize("emotions", [(), ("happy", "happy")])
def test_each_emotion_is_named_once(tmp_path: Path, emotions: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="puppets.emotions must name each emotion once"):
        make_puppets(str(tmp_path), SMALL.model_copy(update={"emotions": emotions}), 0)


def test_a_folder_with_other_files_is_not_changed(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(storage.ArtifactError, match="not a puppets' corpus"):
        make_puppets(str(tmp_path), SMALL, 0)
    assert _files(tmp_path) == {"thesis.txt": b"precious"}


def test_an_unwritable_target_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(storage.ArtifactError, match="cannot write to"):
        make_puppets(str(tmp_path / "file" / "out"), SMALL, 0)


def test_each_speaker_speaks_their_sentences_with_every_emotion() -> None:
    config = PuppetsConfig()
    specs = list_clips(config, 0)
    assert len(specs) == config.speakers * config.sentences * len(config.emotions)
    by_speaker = {s: {spec.sentence for spec in specs if spec.speaker == s} for s in range(config.speakers)}
    assert all(len(sentences) == config.sentences for sentences in by_speaker.values())
    pool = make_sentences(SENTENCE_POOL * config.sentences, 0)
    speakers_of = [sum(text in sentences for sentences in by_speaker.values()) for text in pool]
    assert min(speakers_of) == max(speakers_of) == config.speakers // SENTENCE_POOL


def test_a_corpus_of_recordings(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of two actors; a file with another name and a damaged one are set aside, another emotion is not used."""
    for actor, emotion in ((1, "neutral"), (1, "angry"), (2, "neutral"), (2, "sad")):
        record(tmp_path / "in", actor, emotion, statement=actor)
    record(tmp_path / "in", 2, "angry").write_bytes(b"damaged")
    (tmp_path / "in" / "noise.wav").write_bytes(b"")
    config = SMALL.model_copy(update={"voices": str(tmp_path / "in"), "max_seconds": 4.0})
    result = make_puppets(str(tmp_path / "out"), config, 5, workers=1)
    assert {key: result[key] for key in ("clips", "speakers", "emotions", "sentences")} == {
        "clips": 3,
        "speakers": 2,
        "emotions": 2,
        "sentences": 2,
    }
    assert result["set_aside"] == {"other_name": 1, "unreadable": 1} and result["other_emotions"] == 1
    assert set(_files(tmp_path / "out")) == {
        "manifest.json",
        *(
            f"{name}{suffix}"
            for name in ("actor01/neutral-01-01-01", "actor01/angry-01-01-01", "actor02/neutral-02-01-01")
            for suffix in (".mp4", ".json")
        ),
    }
    manifest = storage.read_manifest(str(tmp_path / "out"), "puppets", 1)
    assert [file["name"] for file in manifest["set_aside"]] == ["Actor_02/03-01-05-01-01-01-02.wav", "noise.wav"]
    assert "voices" in manifest["parents"]
    assert sum("is set aside" in message for message in caplog.messages) == 2
    layout, clips = ingest_list(str(tmp_path / "out"))
    assert layout == "puppets"
    assert [(c.speaker, c.emotion, c.sentence[:4]) for c in clips] == [
        ("actor01", "angry", "kids"),
        ("actor01", "neutral", "kids"),
        ("actor02", "neutral", "dogs"),
    ]


def test_too_many_unusable_recordings_are_an_error(tmp_path: Path) -> None:
    record(tmp_path / "in", 1, "neutral")
    for name in ("a.wav", "b.wav"):
        (tmp_path / "in" / name).write_bytes(b"")
    config = SMALL.model_copy(update={"voices": str(tmp_path / "in")})
    with pytest.raises(storage.ArtifactError, match="2 of 3 recordings cannot be used"):
        make_puppets(str(tmp_path / "out"), config, 5, workers=1)
    assert not (tmp_path / "out" / "manifest.json").exists()
