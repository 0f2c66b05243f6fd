from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from s2v_ray import storage
from s2v_ray.models import teachers
from s2v_ray.models.face_card import read_card
from s2v_ray.models.teachers import ConvFace
from tests.helpers.face_networks import picture, write_own_card

WEIGHTS = os.environ.get("S2V_WEIGHTS", "")

# First outputs of each network for `picture`, by onnxruntime on inputs that OpenCV's warpAffine cut.
KNOWN = {
    "identity_mobilefacenet_y1": (96, [0.0536, -0.0628, 0.1299, 0.1002, -0.1067, -0.0309, -0.1428]),
    "identity_judge_mobilefacenet": (96, [0.1115, -0.0443, -0.1213, 0.0310, 0.0365, 0.0562, -0.1109]),
    "emotion_faceapi": (96, [-6.0559, -7.1234, -8.7708, -7.4337, -17.7637, -13.4317, -9.6479]),
    "emotion_mini_xception": (64, [0.9866, -9.2189, -1.1726, 4.5331, -2.0615, 1.3635, 3.4206]),
}


@pytest.mark.skipif(not WEIGHTS, reason="S2V_WEIGHTS does not name the folder of the ONNX weights")
@pytest.mark.parametrize("name", sorted(KNOWN))
def test_known_outputs(name: str, tmp_path: Path) -> None:
    size, expected = KNOWN[name]
    teachers.install_card(name, WEIGHTS, str(tmp_path))
    network = teachers.load(str(tmp_path))
    got = network(picture(size)[None])
    assert got.shape == (1, network.dim) and got.dtype == torch.float32
    atol = 0.003 if network.role == "identity" else 0.06  # OpenCV interpolates in steps of 1/32 pixel
    np.testing.assert_allclose(got[0, :7], expected, atol=atol)
    if network.role == "identity":
        assert got.norm().item() == pytest.approx(1.0, abs=1e-5)


@pytest.fixture
def own_card(tmp_path: Path) -> Path:
    """A card of a network that is not built in, beside its weights."""
    return write_own_card(tmp_path / "own")


def test_an_onnx_network_that_is_not_built_in(own_card: Path, tmp_path: Path) -> None:
    installed = teachers.install_card(str(own_card), "", str(tmp_path / "c"))
    network = teachers.load(str(tmp_path / "c"))
    frames = np.broadcast_to(np.array([200, 100, 50], np.uint8), (100, 16, 16, 3)).copy()  # more than one chunk
    frames[70:] = (10, 20, 30)
    got = network(frames)
    torch.testing.assert_close(got[:70], torch.tensor([20.0, 45.0, 95.0]).expand(70, 3))
    torch.testing.assert_close(got[70:], torch.tensor([10.0, 5.0, 0.0]).expand(30, 3))
    assert (network.role, network.labels, network.dim) == ("emotion", ("a", "b", "c"), 3)
    assert network.digest == installed.digest == read_card(str(own_card)).digest()
    assert network(frames[:0]).shape == (0, 3)


def test_other_weights_than_the_cards_are_refused(own_card: Path, tmp_path: Path) -> None:
    target = tmp_path / "c"
    teachers.install_card(str(own_card), "", str(target))
    before = (target / "card.yaml").read_bytes()
    weights = own_card.parent / "mean.onnx"
    weights.write_bytes(weights.read_bytes().replace(b"pooled", b"ploode"))
    with pytest.raises(storage.ArtifactError, match="SHA-256"):
        teachers.load(str(target))
    with pytest.raises(storage.ArtifactError, match="SHA-256"):
        teachers.install_card(str(own_card), "", str(target))
    assert (target / "card.yaml").read_bytes() == before


def test_a_card_that_does_not_fit_its_network(own_card: Path, tmp_path: Path) -> None:
    card = yaml.safe_load(own_card.read_text())
    own_card.write_text(yaml.safe_dump(card | {"output": "embedding"}))
    with pytest.raises(storage.ArtifactError, match="card and network differ"):
        teachers.install_card(str(own_card), "", str(tmp_path / "c"))
    assert not (tmp_path / "c").exists()


def test_missing_cards_and_weights_are_errors(tmp_path: Path) -> None:
    with pytest.raises(storage.ArtifactError, match="built-in cards: emotion_faceapi"):
        teachers.load(str(tmp_path))
    with pytest.raises(storage.ArtifactError, match="set teachers.weights"):
        teachers.install_card("emotion_faceapi", "", str(tmp_path))
    with pytest.raises(storage.ArtifactError, match="are not at"):
        teachers.install_card("emotion_faceapi", str(tmp_path / "none"), str(tmp_path))


# ---- trained networks

FIELDS = {
    "role": "identity",
    "dim": 5,
    "channels": 4,
    "height": 16,
    "width": 16,
    "alignment": "box",
    "mean": (127.5,),
    "scale": (127.5,),
}


def test_a_trained_network_is_loaded_unchanged(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = ConvFace(4, 5)
    made = teachers.save_conv(str(tmp_path), module, **FIELDS)
    frames = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    with torch.no_grad():
        raw = module(torch.from_numpy(frames).movedim(-1, 1) / 127.5 - 1)
    loaded = teachers.load(str(tmp_path))
    torch.testing.assert_close(loaded(frames), raw / raw.norm(dim=1, keepdim=True), atol=1e-5, rtol=1e-5)
    assert loaded.digest == made.digest

    with torch.no_grad():
        module.head.bias += 1
    again = teachers.save_conv(str(tmp_path), module, **FIELDS)
    assert again.digest != made.digest
    assert len(list(tmp_path.glob("*.safetensors"))) == 1  # the old weights are gone


def test_a_flipped_byte_is_found(tmp_path: Path) -> None:
    teachers.save_conv(str(tmp_path), ConvFace(4, 5), **FIELDS)
    (weights,) = tmp_path.glob("*.safetensors")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(storage.ArtifactError, match="SHA-256"):
        teachers.load(str(tmp_path))


def test_the_output_of_a_mouth_network_is_an_opening(tmp_path: Path) -> None:
    network = teachers.save_conv(str(tmp_path), ConvFace(4, 1), **FIELDS | {"role": "mouth", "dim": 1})
    got = network(torch.zeros(2, 16, 16, 3, dtype=torch.uint8))
    assert got.shape == (2, 1) and got.min() >= 0 and got.max() <= 1


@pytest.mark.parametrize(
    "bad", [np.zeros((1, 16, 16, 3), np.float32), np.zeros((16, 16, 3), np.uint8), np.zeros((1, 16, 8, 3), np.uint8)]
)
def test_other_inputs_than_crops_are_refused(bad: np.ndarray, tmp_path: Path) -> None:
    network = teachers.save_conv(str(tmp_path), ConvFace(4, 5), **FIELDS)
    with pytest.raises(ValueError, match="uint8"):
        network(bad)


@pytest.mark.parametrize(
    ("device", "available", "expected", "warned"),
    [
        ("cpu", ["CUDAExecutionProvider", "CPUExecutionProvider"], ["CPUExecutionProvider"], False),
        (
            "cuda",
            ["CUDAExecutionProvider", "CPUExecutionProvider"],
            ["CUDAExecutionProvider", "CPUExecutionProvider"],
            False,
        ),
        ("cuda:1", ["CPUExecutionProvider"], ["CPUExecutionProvider"], True),
    ],
)
def test_an_onnx_network_runs_on_the_device_that_is_asked_for(
    device: str,
    available: list[str],
    expected: list[str],
    warned: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: available)
    assert teachers._providers(device) == expected
    assert ("pip install --no-deps onnxruntime-gpu" in caplog.text) == warned
