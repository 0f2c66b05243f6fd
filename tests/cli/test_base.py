"""What all commands share: recipes, errors, --json."""

from __future__ import annotations

from pathlib import Path

import pytest

from s2v_ray import cli, storage
from s2v_ray.shards import CORPUS_SCHEMA
from tests.helpers.commands import fails, tree


def test_unknown_key_is_named_with_the_nearest_right_one(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    message = fails(capsys, "puppets", tmp_path / "out", "--recipe", "debug", "--set", "puppets.speaker=3")
    assert "'puppets.speaker'" in message and "did you mean 'puppets.speakers'" in message
    assert not (tmp_path / "out").exists()


def test_ill_typed_key_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    message = fails(capsys, "puppets", tmp_path / "out", "--set", "puppets.speakers=many")
    assert "puppets.speakers" in message and "'many'" in message


def test_unknown_recipe_names_the_nearest(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "did you mean the built-in recipe 'puppets'" in fails(
        capsys, "puppets", tmp_path / "out", "--recipe", "pupets"
    )


def test_unwritable_target(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    message = fails(capsys, "puppets", tmp_path / "file" / "out", "--recipe", "debug")
    assert "cannot write" in message
    assert tree(tmp_path) == {"file": b"not a folder"}


def test_unwritable_json_is_found_before_the_work(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot write" in fails(
        capsys, "puppets", tmp_path / "out", "--recipe", "debug", "--json", tmp_path / "file" / "report.json"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["teach", "distill", "train", "evaluate"])
def test_corpus_of_another_schema(
    command: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, student: Path, generator: Path
) -> None:
    corpus, out = tmp_path / "corpus", tmp_path / "out"
    storage.write_manifest(str(corpus), "corpus", CORPUS_SCHEMA + 1)
    more = {
        "teach": [],
        "distill": [out],
        "train": [out, "--student", student],
        "evaluate": [out, "--bundle", generator],
    }[command]
    before = tree(tmp_path)
    message = fails(capsys, command, corpus, *more, "--recipe", "debug")
    assert f"schema {CORPUS_SCHEMA + 1}" in message
    assert tree(tmp_path) == before


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("S2V_DEBUG", "1")
    with pytest.raises(storage.ArtifactError):
        cli.main(["generate", "--bundle", str(tmp_path), "speech.wav", "-o", str(tmp_path / "out.mp4")])


def test_our_own_faults_show_where(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s2v_ray.config.load_recipe", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["puppets", "out"])


def test_interrupt_is_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("s2v_ray.config.load_recipe", interrupt)
    assert cli.main(["puppets", "out"]) == 130
    assert "interrupted" in capsys.readouterr().err
