from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

from s2v_ray import storage
from s2v_ray.media.face import TEMPLATE
from s2v_ray.models import teachers
from s2v_ray.models.teachers import ARCFACE, Card, ConvFace

WEIGHTS = os.environ.get("S2V_WEIGHTS", "")

# First numbers of each network for `picture`, from onnxruntime alone on inputs cut with OpenCV's warpAffine: no code of this project.
KNOWN = {
    "identity_mobilefacenet_y1": (96, [0.0536, -0.0628, 0.1299, 0.1002, -0.1067, -0.0309, -0.1428]),
    "identity_judge_mobilefacenet": (96, [0.1115, -0.0443, -0.1213, 0.0310, 0.0365, 0.0562, -0.1109]),
    "emotion_faceapi": (96, [-6.0559, -7.1234, -8.7708, -7.4337, -17.7637, -13.4317, -9.6479]),
    "emotion_mini_xception": (64, [0.9866, -9.2189, -1.1726, 4.5331, -2.0615, 1.3635, 3.4206]),
}


def picture(size: int) -> np.ndarray:
    """A drawn face on waves: uint8 ``[size, size, 3]``."""
    y, x = np.mgrid[:size, :size] / size
    waves = np.stack(
        [0.5 + 0.4 * np.sin(7 * x + 3 * y), 0.5 + 0.4 * np.cos(5 * y - 2 * x), 0.5 + 0.4 * np.sin(9 * x * y + 1)], -1
    )
    oval = ((x - 0.5) ** 2 / 0.09 + (y - 0.55) ** 2 / 0.18 < 1)[..., None]
    drawn = np.where(oval, 0.3 * waves + np.array([0.5, 0.38, 0.3]), waves)
    for cx, cy, sx, sy in ((0.36, 0.42, 0.05, 0.02), (0.64, 0.42, 0.05, 0.02), (0.5, 0.745, 0.11, 0.03)):
        drawn = np.where((((x - cx) / sx) ** 2 + ((y - cy) / sy) ** 2 < 1)[..., None], 0.1, drawn)
    return cv2.GaussianBlur((drawn * 255).round().astype(np.uint8), (5, 5), 1)


def plain_card(**changes: object) -> Card:
    fields = {
        "kind": "conv",
        "role": "identity",
        "weights": "w",
        "sha256": "0" * 64,
        "height": 16,
        "width": 16,
        "alignment": "box",
        "dim": 4,
        "channels": 4,
    }
    return Card.model_validate(fields | changes)


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


def test_every_built_in_card_is_known_and_complete() -> None:
    assert teachers.built_in_cards() == sorted(KNOWN)
    cards = [teachers.read_card(name) for name in KNOWN]
    assert all(card.licence and card.source and card.output for card in cards)
    judge, teacher = teachers.read_card("emotion_mini_xception"), teachers.read_card("emotion_faceapi")
    assert set(judge.labels) == set(teacher.labels)  # so that their answers can be compared by name
    assert len({card.digest() for card in cards}) == 4


@pytest.mark.parametrize("width", [112, 96])
@pytest.mark.parametrize("size", [64, 96])
def test_arcface_cut_agrees_with_opencv(width: int, size: int) -> None:
    frame = picture(size)
    matrix, _ = cv2.estimateAffinePartial2D(
        TEMPLATE * size, ARCFACE - [(112 - width) / 2, 0], ransacReprojThreshold=100
    )
    expected = cv2.warpAffine(
        frame.astype(np.float32), matrix, (width, 112), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    got = teachers.prepare(torch.from_numpy(frame[None]), plain_card(alignment="arcface", height=112, width=width))
    assert got.shape == (1, 3, 112, width)
    assert np.abs(got[0].movedim(0, -1).numpy() - expected).mean() < 0.3  # of 255


def test_the_eyes_land_on_the_arcface_template() -> None:
    size = 96
    frame = np.zeros((size, size, 3), np.uint8)
    for x, y in TEMPLATE[:2] * size:
        cv2.circle(frame, (round(x * 16), round(y * 16)), 3 * 16, (255, 255, 255), -1, cv2.LINE_AA, 4)
    cut = teachers.prepare(torch.from_numpy(frame[None]), plain_card(alignment="arcface", height=112, width=112))[
        0, 0
    ].numpy()
    y, x = np.mgrid[:112, :112]
    for side, point in ((x < 56, ARCFACE[0]), (x >= 56, ARCFACE[1])):
        weight = cut * side
        assert (
            np.hypot((x * weight).sum() / weight.sum() - point[0], (y * weight).sum() / weight.sum() - point[1]) < 0.6
        )


def test_whole_box_is_the_crop_itself() -> None:
    frames = torch.from_numpy(picture(32)[None])
    got = teachers.prepare(frames, plain_card(height=32, width=32, mean=(127.5,), scale=(127.5,)))
    torch.testing.assert_close(got, frames.movedim(-1, 1).float() / 127.5 - 1)


def test_box_colour_and_scale() -> None:
    frame = np.zeros((1, 32, 32, 3), np.uint8)
    frame[:, 8:24, 16:] = (200, 100, 50)
    card = plain_card(height=8, width=8, box=(0.5, 0.25, 0.5), mean=(10.0, 20.0, 30.0), scale=(2.0,))
    got = teachers.prepare(torch.from_numpy(frame), card)[0, :, 2:6, 2:6]
    torch.testing.assert_close(got, torch.tensor([95.0, 40.0, 10.0]).view(3, 1, 1).expand(3, 4, 4))
    bgr = teachers.prepare(torch.from_numpy(frame), card.model_copy(update={"colour": "bgr", "mean": (0.0,)}))[
        0, :, 4, 4
    ]
    torch.testing.assert_close(bgr, torch.tensor([25.0, 50.0, 100.0]))
    grey = teachers.prepare(
        torch.from_numpy(frame), card.model_copy(update={"colour": "grey", "mean": (0.0,), "scale": (1.0,)})
    )
    assert grey.shape == (1, 1, 8, 8)
    assert grey[0, 0, 4, 4].item() == pytest.approx(0.299 * 200 + 0.587 * 100 + 0.114 * 50, abs=1e-3)


def test_shrinking_does_not_alias() -> None:
    stripes = np.zeros((1, 128, 128, 3), np.uint8)
    stripes[:, :, ::2] = 255
    got = teachers.prepare(torch.from_numpy(stripes), plain_card(height=16, width=16))
    assert (got[..., 2:-2] - 127.5).abs().max() < 8


# ---- a network made by hand: the mean of each channel, as ONNX


def _field(number: int, value: int | str | bytes) -> bytes:
    if isinstance(value, int):
        return bytes([number << 3, value])
    data = value.encode() if isinstance(value, str) else value
    assert len(data) < 1 << 14
    length = bytes([len(data)]) if len(data) < 128 else bytes([len(data) & 127 | 128, len(data) >> 7])
    return bytes([number << 3 | 2]) + length + data


def _value(name: str, dims: tuple[int | str, ...]) -> bytes:
    shape = b"".join(_field(1, _field(1, d) if isinstance(d, int) else _field(2, d)) for d in dims)
    return _field(1, name) + _field(2, _field(1, _field(1, 1) + _field(2, shape)))


def mean_onnx() -> bytes:
    """ONNX (protobuf by hand): face [N,3,16,16] -> GlobalAveragePool -> Flatten -> logits [N,3]."""
    pool = _field(1, "face") + _field(2, "pooled") + _field(4, "GlobalAveragePool")
    flat = _field(1, "pooled") + _field(2, "logits") + _field(4, "Flatten")
    graph = (
        _field(1, pool)
        + _field(1, flat)
        + _field(2, "g")
        + _field(11, _value("face", ("n", 3, 16, 16)))
        + _field(12, _value("logits", ("n", 3)))
    )
    return _field(1, 8) + _field(7, graph) + _field(8, _field(1, "") + _field(2, 17))


@pytest.fixture
def own_card(tmp_path: Path) -> Path:
    """A card of one's own beside its weights."""
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "mean.onnx").write_bytes(mean_onnx())
    card = {
        "kind": "onnx", "role": "emotion", "weights": "mean.onnx", "sha256": storage.sha256(mean_onnx()), "height": 16, "width": 16, "colour": "bgr",
        "mean": [10.0], "scale": [2.0], "alignment": "box", "output": "logits", "dim": 3, "labels": ["a", "b", "c"],
    }  # fmt: skip
    (folder / "mine.yaml").write_text(yaml.safe_dump(card))
    return folder / "mine.yaml"


def test_onnx_network_of_ones_own(own_card: Path, tmp_path: Path) -> None:
    installed = teachers.install_card(str(own_card), "", str(tmp_path / "c"))
    network = teachers.load(str(tmp_path / "c"))
    frames = np.broadcast_to(np.array([200, 100, 50], np.uint8), (100, 16, 16, 3)).copy()  # more than one chunk
    frames[70:] = (10, 20, 30)
    got = network(frames)
    torch.testing.assert_close(got[:70], torch.tensor([20.0, 45.0, 95.0]).expand(70, 3))
    torch.testing.assert_close(got[70:], torch.tensor([10.0, 5.0, 0.0]).expand(30, 3))
    assert (network.role, network.labels, network.dim) == ("emotion", ("a", "b", "c"), 3)
    assert network.digest == installed.digest == teachers.read_card(str(own_card)).digest()
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


def test_missing_cards_and_weights_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(storage.ArtifactError, match="built-in cards: emotion_faceapi"):
        teachers.load(str(tmp_path))
    with pytest.raises(storage.ArtifactError, match="set teachers.weights"):
        teachers.install_card("emotion_faceapi", "", str(tmp_path))
    with pytest.raises(storage.ArtifactError, match="are not at"):
        teachers.install_card("emotion_faceapi", str(tmp_path / "none"), str(tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": ["a"]}, "one label for each"),
        ({"colour": "cmyk"}, "colour"),
        ({"hight": 3}, "hight"),
        ({"scale": [0.0]}, "scale must not be 0"),
        ({"mean": [1, 2]}, "mean"),
    ],
)
def test_bad_cards(own_card: Path, changes: dict[str, object], message: str) -> None:
    own_card.write_text(yaml.safe_dump(yaml.safe_load(own_card.read_text()) | changes))
    with pytest.raises(storage.ArtifactError, match=message):
        teachers.read_card(str(own_card))


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


def test_trained_network_comes_back_the_same(tmp_path: Path) -> None:
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


def test_mouth_is_an_opening(tmp_path: Path) -> None:
    network = teachers.save_conv(str(tmp_path), ConvFace(4, 1), **FIELDS | {"role": "mouth", "dim": 1})
    got = network(torch.zeros(2, 16, 16, 3, dtype=torch.uint8))
    assert got.shape == (2, 1) and got.min() >= 0 and got.max() <= 1


@pytest.mark.parametrize(
    "bad", [np.zeros((1, 16, 16, 3), np.float32), np.zeros((16, 16, 3), np.uint8), np.zeros((1, 16, 8, 3), np.uint8)]
)
def test_what_is_no_crop_is_refused(bad: np.ndarray, tmp_path: Path) -> None:
    network = teachers.save_conv(str(tmp_path), ConvFace(4, 5), **FIELDS)
    with pytest.raises(ValueError, match="uint8"):
        network(bad)
