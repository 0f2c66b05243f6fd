"""Images of the report: contact sheets and side-by-side frames, with numpy and OpenCV."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import cv2
import numpy as np

TILE = 96
"""Smallest side of a tile, in pixels."""
GAP = 4
LABEL_WIDTH = 200
INK, PAPER = (30, 30, 30), 250


def contact_sheet(clips: Sequence[Mapping[str, np.ndarray]], frames: int = 4) -> np.ndarray:
    """Draws a sheet with one row for each label and one block of frames for each clip.

    Args:
        clips: for each clip, label -> uint8 ``[T, H, W, 3]``; all clips have the same labels.
        frames: number of frames of each clip, evenly spaced in time.

    Returns:
        RGB image, uint8 ``[h, w, 3]``.
    """
    labels = list(clips[0])
    tile = _tile_size(next(iter(clips[0].values())))
    block = frames * (tile + GAP) + 2 * GAP
    sheet = np.full((len(labels) * (tile + GAP) + GAP, LABEL_WIDTH + len(clips) * block, 3), PAPER, np.uint8)
    for y, label in enumerate(labels):
        top = GAP + y * (tile + GAP)
        _write(sheet, label, (8, top + tile // 2))
        for x, clip in enumerate(clips):
            for k, t in enumerate(np.linspace(0.1, 0.9, frames) * (len(clip[label]) - 1)):
                left = LABEL_WIDTH + x * block + k * (tile + GAP)
                sheet[top : top + tile, left : left + tile] = _resize(clip[label][round(t)], tile)
    return sheet


def side_by_side(rows: Mapping[str, np.ndarray]) -> Iterator[np.ndarray]:
    """Yields frames with the rows next to each other, each below its label; sides are even, as H.264 requires."""
    tile = 2 * _tile_size(next(iter(rows.values())))
    for t in range(min(len(frames) for frames in rows.values())):
        frame = np.full((tile + 32, len(rows) * (tile + GAP) - GAP, 3), PAPER, np.uint8)
        for i, (label, frames) in enumerate(rows.items()):
            left = i * (tile + GAP)
            _write(frame, label, (left + 6, 21))
            frame[32:, left : left + tile] = _resize(frames[t], tile)
        yield frame


def to_png(image: np.ndarray) -> bytes:
    """Encodes an RGB image, uint8 ``[H, W, 3]``, as PNG."""
    ok, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not ok:
        raise ValueError(f"an image of shape {image.shape} cannot be encoded as PNG")
    return data.tobytes()


def _tile_size(frames: np.ndarray) -> int:
    size: int = frames.shape[1]
    return size * -(-TILE // size)


def _resize(frame: np.ndarray, size: int) -> np.ndarray:
    return cv2.resize(frame, (size, size), interpolation=cv2.INTER_CUBIC)


def _write(image: np.ndarray, text: str, at: tuple[int, int]) -> None:
    cv2.putText(image, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.45, INK, 1, cv2.LINE_AA)
