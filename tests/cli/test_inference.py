"""s2v generate."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from s2v_ray import cli
from tests.helpers.commands import fails


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


def test_live_from_a_file(tmp_path: Path, generator: Path, speech: Path) -> None:
    out, report = tmp_path / "live.mp4", tmp_path / "report.json"
    arguments = ["live", "--bundle", generator, speech, "-o", out, "--emotion", "happy", "--json", report]
    assert cli.main([str(argument) for argument in arguments]) == 0
    result = json.loads(report.read_text())["result"]
    assert (result["output"], result["frames"], result["seconds"]) == (str(out), 13, 0.52)
    assert out.read_bytes()[4:8] == b"ftyp"


def test_live_refuses_before_it_listens(capsys: pytest.CaptureFixture[str], tmp_path: Path, generator: Path) -> None:
    out = tmp_path / "out.mp4"
    assert "none.wav" in fails(capsys, "live", "--bundle", generator, tmp_path / "none.wav", "-o", out)
    assert "is a folder" in fails(capsys, "live", "--bundle", generator, "-o", tmp_path)
