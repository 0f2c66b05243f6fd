"""The command line: messages for mistakes, and the report of --json."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import wave
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from s2v_ray import cli, storage
from s2v_ray.config import built_in_recipes, load_recipe
from s2v_ray.models.bundle import save_bundle
from s2v_ray.models.generator import Speech2Video
from s2v_ray.models.student import Student
from s2v_ray.shards import CORPUS_SCHEMA

COMMANDS = (
    "puppets",
    "ingest",
    "offsets",
    "teach",
    "distill",
    "train",
    "evaluate",
    "tune",
    "export",
    "generate",
    "serve",
    "study",
    "plan",
    "submit",
)
COMMANDS += ("demo", "doctor", "recipes")
EMOTIONS = ("neutral", "happy")


def fails(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> str:
    """Runs a command that must fail by a user's mistake; returns its message."""
    capsys.readouterr()
    assert cli.main([str(a) for a in argv]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("s2v: ")]
    assert len(lines) == 1, "one message, not a traceback"
    assert lines[0].startswith("s2v: error: ")
    return lines[0]


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def student(tmp_path: Path) -> Path:
    """The run of a distillation, as far as its bundle goes."""
    recipe = load_recipe("debug")
    torch.manual_seed(0)
    save_bundle(str(tmp_path / "student" / "bundle"), Student(recipe.student, 8, EMOTIONS), recipe, "student", {}, {})
    return tmp_path / "student"


@pytest.fixture
def generator(tmp_path: Path) -> Path:
    recipe = load_recipe("debug")
    torch.manual_seed(0)
    save_bundle(
        str(tmp_path / "generator" / "bundle"), Speech2Video(recipe, 8, EMOTIONS), recipe, "speech2video", {}, {}
    )
    return tmp_path / "generator"


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    """Half a second of a tone."""
    path = tmp_path / "speech.wav"
    with wave.open(str(path), "wb") as f:
        f.setnchannels(1)
        f.setsampwidth(2)
        f.setframerate(16_000)
        t = torch.arange(8000) / 16_000
        f.writeframes((torch.sin(2 * torch.pi * 220 * t) * 8000).to(torch.int16).numpy().tobytes())
    return path


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_that_names_the_keys_of_its_json(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert "JSON result:" in text and re.search(r"--json +PATH", text)


@pytest.mark.parametrize("argv", [[], ["dance"], ["train", "corpus", "run"], ["puppets"]])
def test_wrong_usage_is_status_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(argv) == 2
    assert "Usage: s2v" in capsys.readouterr().err


def test_help_and_generate_import_no_ray(generator: Path, speech: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    argv = ["generate", "--bundle", str(generator), str(speech), "-o", str(out)]
    code = f"import sys; from s2v_ray import cli; assert not {{'ray', 'torch'}} & set(sys.modules); cli.main({argv}); print('ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[-1] == "False", done.stderr
    assert out.stat().st_size > 0


def test_recipes_are_listed_and_printed_in_full(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["recipes", "--json", str(tmp_path / "all.json")]) == 0
    assert capsys.readouterr().out.split() == built_in_recipes()
    assert cli.main(["recipes", "debug", "--set", "seed=7", "--json", str(tmp_path / "one.json")]) == 0
    recipe = load_recipe("debug", ["seed=7"])
    assert capsys.readouterr().out.startswith(f"# digest {recipe.digest()}\n")
    report = json.loads((tmp_path / "one.json").read_text())
    assert report["result"] == {"recipe": recipe.model_dump(mode="json"), "digest": recipe.digest()}
    assert set(report) == {"command", "version", "recipe", "config_digest", "seconds", "artifacts", "result"}


@pytest.mark.parametrize("name", ["debug", "demo", "puppets", "grid", "full"])
def test_built_in_recipes_load(name: str) -> None:
    assert load_recipe(name).name == name


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


def test_missing_source(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "nowhere" in fails(capsys, "ingest", tmp_path / "nowhere", tmp_path / "corpus", "--recipe", "debug")
    assert tree(tmp_path) == {}


def test_empty_source(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    assert "videos" in fails(capsys, "ingest", tmp_path / "videos", tmp_path / "corpus", "--recipe", "debug")
    assert tree(tmp_path) == {}


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


def test_no_corpus(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "there is no corpus" in fails(capsys, "teach", tmp_path / "corpus", "--recipe", "debug")


def test_bundle_of_the_wrong_kind(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, student: Path, speech: Path
) -> None:
    out = tmp_path / "out.mp4"
    out.write_bytes(b"an earlier video")
    message = fails(capsys, "generate", "--bundle", student, speech, "-o", out)
    assert "student" in message and "speech2video" in message
    assert out.read_bytes() == b"an earlier video"


def test_flipped_byte(capsys: pytest.CaptureFixture[str], tmp_path: Path, generator: Path, speech: Path) -> None:
    weights = next((generator / "bundle").glob("*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(bytes(data))
    assert "damaged" in fails(capsys, "generate", "--bundle", generator, speech, "-o", tmp_path / "out.mp4")
    assert not (tmp_path / "out.mp4").exists()


def test_missing_bundle_and_speech(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, generator: Path, speech: Path
) -> None:
    assert "there is no bundle" in fails(
        capsys, "generate", "--bundle", tmp_path / "none", speech, "-o", tmp_path / "out.mp4"
    )
    assert "none.wav" in fails(
        capsys, "generate", "--bundle", generator, tmp_path / "none.wav", "-o", tmp_path / "out.mp4"
    )


def test_unknown_emotion_names_the_known_ones(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, generator: Path, speech: Path
) -> None:
    message = fails(capsys, "generate", "--bundle", generator, speech, "-o", tmp_path / "out.mp4", "--emotion", "bored")
    assert "'bored'" in message and "neutral, happy" in message


def test_face_needs_a_teacher(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, generator: Path, speech: Path
) -> None:
    (tmp_path / "face.png").write_bytes(b"not a picture")
    arguments = ["generate", "--bundle", generator, speech, "-o", tmp_path / "out.mp4", "--face", tmp_path / "face.png"]
    assert "not a picture" in fails(capsys, *arguments)
    cv2.imwrite(str(tmp_path / "face.png"), np.zeros((40, 40, 3), np.uint8))
    assert "shows no faces" in fails(capsys, *arguments)
    assert "--teacher" in fails(capsys, *arguments, "--detector", "none")


def test_generate_writes_what_it_found(tmp_path: Path, generator: Path, speech: Path) -> None:
    out, report = tmp_path / "out.mp4", tmp_path / "reports" / "out.json"
    assert (
        cli.main(
            [
                "generate",
                "--bundle",
                str(generator / "bundle"),
                str(speech),
                "-o",
                str(out),
                "--emotion",
                "happy",
                "--json",
                str(report),
            ]
        )
        == 0
    )
    found = json.loads(report.read_text())
    assert found["artifacts"] == {"video": str(out)}
    assert found["result"]["frames"] == 13  # 8000 samples are 12.5 frames; the started one counts
    assert found["command"] == "generate" and found["recipe"] is None


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


def test_tune_and_export_say_what_they_need(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "needs --space FILE" in fails(capsys, "tune", tmp_path / "corpus", tmp_path / "sweep")
    assert "there is no space at" in fails(
        capsys, "tune", tmp_path / "corpus", tmp_path / "sweep", "--space", tmp_path / "no.yaml"
    )
    (tmp_path / "space.yaml").write_text(
        "objectives: [sync]\nparameters: {gan.lr: {distribution: uniform, low: 0.001, high: fast}}\n"
    )
    assert "parameters.gan.lr.uniform.high" in fails(
        capsys, "tune", tmp_path / "corpus", tmp_path / "sweep", "--space", tmp_path / "space.yaml"
    )
    (tmp_path / "space.yaml").write_text(
        "objectives: [sync]\nparameters: {gan.lr: {distribution: uniform, low: 0.001, high: 0.01}}\n"
    )
    assert "there is no corpus at" in fails(
        capsys, "tune", tmp_path / "corpus", tmp_path / "sweep", "--space", tmp_path / "space.yaml"
    )
    assert "there is no sweep at" in fails(capsys, "tune", "report", tmp_path / "sweep")
    assert "takes a bundle, or --best SWEEP with -o BUNDLE" in fails(capsys, "export", "--best", tmp_path / "sweep")
    assert "there is no sweep at" in fails(capsys, "export", "--best", tmp_path / "sweep", "-o", tmp_path / "out")
    assert not (tmp_path / "sweep").exists()
