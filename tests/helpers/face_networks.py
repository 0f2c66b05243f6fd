"""Face networks and their input for tests: a drawn face, an ONNX network without libraries, and a card for it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import yaml

from s2v_ray import storage
from s2v_ray.models.face_card import Card


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
    """ONNX, encoded as protobuf here: face [N, 3, 16, 16] -> GlobalAveragePool -> Flatten -> logits [N, 3]."""
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


def write_own_card(folder: Path) -> Path:
    """Writes ``mean_onnx`` and a card of it; returns the path of the card."""
    folder.mkdir()
    (folder / "mean.onnx").write_bytes(mean_onnx())
    card = {
        "kind": "onnx",
        "role": "emotion",
        "weights": "mean.onnx",
        "sha256": storage.sha256(mean_onnx()),
        "height": 16,
        "width": 16,
        "colour": "bgr",
        "mean": [10.0],
        "scale": [2.0],
        "alignment": "box",
        "output": "logits",
        "dim": 3,
        "labels": ["a", "b", "c"],
    }
    (folder / "mine.yaml").write_text(yaml.safe_dump(card))
    return folder / "mine.yaml"
