from __future__ import annotations

import json
from pathlib import Path

import pytest

from s2v_ray.ingest.sources import list_clips
from s2v_ray.storage import ArtifactError


def lay(root: Path, *names: str) -> str:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return str(root)


def test_cremad_names(tmp_path: Path) -> None:
    layout, clips = list_clips(lay(tmp_path, "1001_DFA_ANG_XX.flv", "VideoFlash/1002_IEO_HAP_HI.flv", "notes.txt"))
    assert layout == "cremad"
    assert [(c.speaker, c.emotion, c.sentence) for c in clips] == [
        ("1001", "angry", "don't forget a jacket"),
        ("1002", "happy", "it's eleven o'clock"),
    ]


def test_ravdess_names_and_only_spoken_takes_with_sound(tmp_path: Path) -> None:
    names = [
        "Actor_12/01-01-06-01-02-01-12.mp4",
        "Actor_12/02-01-06-01-02-01-12.mp4",
        "Actor_12/01-02-03-01-01-01-12.mp4",
        "Actor_03/01-01-08-02-01-02-03.mp4",
    ]
    layout, clips = list_clips(lay(tmp_path, *names))
    assert layout == "ravdess"
    assert [(c.speaker, c.emotion, c.sentence) for c in clips] == [
        ("03", "surprised", "kids are talking by the door"),
        ("12", "fearful", "dogs are sitting by the door"),
    ]


def test_grid_folders_flat_folder_with_csv_and_both(tmp_path: Path) -> None:
    root = lay(
        tmp_path,
        "s1/bbaf5a.mpg",
        "s1/bbaf5a.align",
        "s2/pwij3p.mpg",
        "others/p03_lipnet_brbk7n.mpg",
        "others/p11_gt.mp4",
    )
    (tmp_path / "others/sources.csv").write_text(
        "file,speaker,source\np03_lipnet_brbk7n.mpg,grid_p03,x\np11_gt.mp4,grid_p11,y\n"
    )
    layout, clips = list_clips(root)
    assert layout == "grid"
    assert {(c.name, c.speaker, c.sentence) for c in clips} == {
        ("s1/bbaf5a.mpg", "s1", "bin blue at f five again"),
        ("s2/pwij3p.mpg", "s2", "place white in j three please"),
        ("others/p03_lipnet_brbk7n.mpg", "grid_p03", "bin red by k seven now"),
        ("others/p11_gt.mp4", "grid_p11", ""),
    }
    layout, flat = list_clips(str(tmp_path / "others"), "grid")
    assert {c.speaker for c in flat} == {"grid_p03", "grid_p11"}
    assert {c.speaker for c in list_clips(str(tmp_path / "s1"))[1]} == {"s1"}


def test_puppets_hand_over_their_truth(tmp_path: Path) -> None:
    root = lay(tmp_path, "anna/one.mp4")
    (tmp_path / "manifest.json").write_text(json.dumps({"kind": "puppets", "schema": 1}))
    (tmp_path / "anna/one.json").write_text(
        json.dumps({"speaker": "anna", "emotion": "sad", "sentence": "good morning", "landmarks": []})
    )
    layout, (clip,) = list_clips(root)
    assert layout == "puppets" and clip.truth == str(tmp_path / "anna/one.json")
    assert (clip.speaker, clip.emotion, clip.sentence) == ("anna", "sad", "good morning")


def test_a_folder_is_the_speaker(tmp_path: Path) -> None:
    layout, clips = list_clips(lay(tmp_path / "me", "a.mp4", "bob/b.webm", "bob/.hidden.mp4", "readme.md"))
    assert layout == "folder"
    assert [(c.name, c.speaker, c.emotion) for c in clips] == [("a.mp4", "me", ""), ("bob/b.webm", "bob", "")]


def test_nothing_there_and_nothing_of_use(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="there is no source at"):
        list_clips(str(tmp_path / "missing"))
    with pytest.raises(ArtifactError, match="is empty"):
        list_clips(lay(tmp_path, "a.txt"))
    with pytest.raises(ArtifactError, match="is empty: no video of the layout 'ravdess'"):
        list_clips(lay(tmp_path, "a.mp4"), "ravdess")
