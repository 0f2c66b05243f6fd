from __future__ import annotations

import json
from pathlib import Path

import pytest

from s2v_ray.config import import_plugins
from s2v_ray.ingest import sources
from s2v_ray.ingest.crop import Process
from s2v_ray.ingest.sources import Source, SourceClip, list_clips, register_source
from s2v_ray.storage import ArtifactError
from tests.helpers.labelled_videos import make_source
from tests.helpers.recipes import tiny_recipe


def touch(root: Path, *names: str) -> str:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return str(root)


def test_cremad_names(tmp_path: Path) -> None:
    layout, clips = list_clips(touch(tmp_path, "1001_DFA_ANG_XX.flv", "VideoFlash/1002_IEO_HAP_HI.flv", "notes.txt"))
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
    layout, clips = list_clips(touch(tmp_path, *names))
    assert layout == "ravdess"
    assert [(c.speaker, c.emotion, c.sentence) for c in clips] == [
        ("03", "surprised", "kids are talking by the door"),
        ("12", "fearful", "dogs are sitting by the door"),
    ]


def test_grid_in_folders_in_a_folder_with_a_csv_and_both(tmp_path: Path) -> None:
    root = touch(
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


def test_puppets_have_ground_truth(tmp_path: Path) -> None:
    root = touch(tmp_path, "anna/one.mp4")
    (tmp_path / "manifest.json").write_text(json.dumps({"kind": "puppets", "schema": 1}))
    (tmp_path / "anna/one.json").write_text(
        json.dumps({"speaker": "anna", "emotion": "sad", "sentence": "good morning", "landmarks": []})
    )
    layout, (clip,) = list_clips(root)
    assert layout == "puppets" and clip.ground_truth == str(tmp_path / "anna/one.json")
    assert (clip.speaker, clip.emotion, clip.sentence) == ("anna", "sad", "good morning")


def test_a_folder_is_the_speaker(tmp_path: Path) -> None:
    layout, clips = list_clips(touch(tmp_path / "me", "a.mp4", "bob/b.webm", "bob/.hidden.mp4", "readme.md"))
    assert layout == "folder"
    assert [(c.name, c.speaker, c.emotion) for c in clips] == [("a.mp4", "me", ""), ("bob/b.webm", "bob", "")]


def test_missing_and_empty_sources(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="there is no source at"):
        list_clips(str(tmp_path / "missing"))
    with pytest.raises(ArtifactError, match="is empty"):
        list_clips(touch(tmp_path, "a.txt"))
    with pytest.raises(ArtifactError, match="is empty: no video of the layout 'ravdess'"):
        list_clips(touch(tmp_path, "a.mp4"), "ravdess")


# ---- sources from outside


PLUGIN = """
import json
from pathlib import PurePosixPath

from s2v_ray import storage
from s2v_ray.ingest.sources import Source, SourceClip, register_source, video_files


def matches(files):
    return any(f.name == "labels.json" for f in files)


def read(root, files):
    labels = storage.read_json(dict(files)["labels.json"])
    return [
        SourceClip(f.uri, f.name, ground_truth=f.uri.replace(".mp4", ".json"), **labels[PurePosixPath(f.name).stem])
        for f in video_files(files)
        if PurePosixPath(f.name).stem in labels
    ]


register_source("labelled", Source(read, matches))
"""


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> dict[str, Source]:
    """The table of sources, restored after the test."""
    table = dict(sources._SOURCES)
    monkeypatch.setattr(sources, "_SOURCES", table)
    return table


def test_a_source_is_added_by_a_module_outside_of_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registry: dict[str, Source]
) -> None:
    """One file, imported as a plugin; its clips go through ingest."""
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "labelled_source.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path / "plugins"))
    root = make_source(tmp_path / "videos")
    labels = {"one": {"speaker": "eve", "emotion": "calm", "sentence": "first"}, "two": {"speaker": "eve"}}
    (tmp_path / "videos" / "labels.json").write_text(json.dumps(labels))
    (tmp_path / "videos" / "manifest.json").unlink()

    with pytest.raises(ValueError, match="there is no source 'labelled'"):
        list_clips(root, "labelled")
    import_plugins(["labelled_source"])
    import_plugins(["labelled_source"])  # as each recipe of a process does
    assert "labelled" in registry

    layout, clips = list_clips(root, "labelled")
    assert layout == "labelled"
    assert [(c.name, c.speaker, c.emotion) for c in clips] == [
        ("anna/one.mp4", "eve", "calm"),
        ("anna/two.mp4", "eve", ""),
        ("bob/one.mp4", "eve", "calm"),
        ("bob/two.mp4", "eve", ""),
    ]
    assert list_clips(root)[0] == "labelled"
    (clip,) = [cropped.clip for cropped in Process(tiny_recipe()).process(clips[0])]
    assert (clip.speaker, clip.emotion, clip.sentence, len(clip.frames)) == ("eve", "calm", "first", 25)


def test_an_unknown_source_is_an_error_that_lists_the_known_ones(tmp_path: Path) -> None:
    message = r"there is no source 'vox'; known are auto, puppets, cremad, ravdess, grid, folder\. .*list of plugins"
    with pytest.raises(ValueError, match=message):
        list_clips(touch(tmp_path, "a.mp4"), "vox")


def test_a_name_is_registered_once(registry: dict[str, Source]) -> None:
    def read(root: str, files: object) -> list[SourceClip]:
        return []

    register_source("mine", Source(read))
    register_source("mine", Source(read))  # the same again
    for name in ("mine", "grid", "auto"):
        with pytest.raises(ValueError, match=f"there is a source '{name}' already"):
            register_source(name, Source(lambda root, files: []))


def test_a_source_without_a_test_of_its_files_is_only_chosen_by_name(
    tmp_path: Path, registry: dict[str, Source]
) -> None:
    register_source("mine", Source(lambda root, files: [SourceClip(f.uri, f.name, "eve") for f in files]))
    root = touch(tmp_path, "anna/a.mp4")
    assert list_clips(root)[0] == "folder"
    assert list_clips(root, "mine")[1][0].speaker == "eve"
