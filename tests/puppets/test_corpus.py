"""The puppets' corpus: truth files that agree with the videos, the same bytes for the same seed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from s2v_ray import storage
from s2v_ray.config import PuppetsConfig
from s2v_ray.media.video import read_video
from s2v_ray.puppets.corpus import VARIANTS, draw_traits, jobs, make_puppet, make_puppets, sentences
from s2v_ray.puppets.voice import RATE

SMALL = PuppetsConfig(speakers=2, emotions=("neutral", "angry"), sentences=1, size=64, max_seconds=1.2)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("puppets") / "out"
    said: list[str] = []
    result = make_puppets(str(out), SMALL, 5, said.append, workers=1)
    assert result["clips"] == 4 and result["frames"] > 60 and len(said) > 2
    return out


def _files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_same_seed_same_bytes_whatever_the_workers(made: Path, tmp_path: Path) -> None:
    make_puppets(str(tmp_path / "again"), SMALL, 5, lambda _: None, workers=2)
    assert _files(made) == _files(tmp_path / "again")


def test_another_seed_other_files_and_old_ones_go(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    make_puppets(str(out), SMALL, 5, lambda _: None, workers=1)
    make_puppets(str(out), SMALL.model_copy(update={"emotions": ("happy",)}), 6, lambda _: None, workers=1)
    names = set(_files(out))
    assert names.isdisjoint(set(_files(made)) - {"manifest.json"})
    assert len(names) == 2 * 2 + 1


def test_truth_lies_beside_each_video_and_agrees_with_it(made: Path) -> None:
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


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(storage.ArtifactError, match="not a puppets' corpus"):
        make_puppets(str(tmp_path), SMALL, 0, lambda _: None)
    assert _files(tmp_path) == {"thesis.txt": b"precious"}


def test_an_unwritable_target_is_one_clear_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(storage.ArtifactError, match="cannot write to"):
        make_puppets(str(tmp_path / "file" / "out"), SMALL, 0, lambda _: None)


def test_each_speaker_says_his_sentences_with_every_emotion() -> None:
    config = PuppetsConfig()
    todo = jobs(config, 0)
    assert len(todo) == config.speakers * config.sentences * len(config.emotions)
    by_speaker = {s: {j.sentence for j in todo if j.speaker == s} for s in range(config.speakers)}
    assert all(len(said) == config.sentences for said in by_speaker.values())
    speakers_of = [
        sum(text in said for said in by_speaker.values()) for text in sentences(VARIANTS * config.sentences, 0)
    ]
    assert min(speakers_of) == max(speakers_of) == config.speakers // VARIANTS


def test_sentences_differ() -> None:
    texts = sentences(200, 1)
    assert len(set(texts)) == 200 and texts[:20] == sentences(20, 1)


def test_traits_cover_their_range_and_no_two_puppets_are_alike() -> None:
    builds = sorted(traits["build"] for traits in draw_traits(0, 24))
    assert np.all(np.diff(builds) > 0.01) and builds[0] < 0.05 and builds[-1] > 0.95
    puppets = [make_puppet(0, i, 24) for i in range(24)]
    assert len({p.voice.accent for p in puppets}) == 8
    assert len({(p.face.hair.style, p.face.skin, p.face.glasses, p.face.hair.beard) for p in puppets}) > 20
    assert make_puppet(0, 3, 24) == puppets[3] != make_puppet(1, 3, 24)


def test_sample_rate_gives_whole_frames() -> None:
    assert RATE % 25 == 0
