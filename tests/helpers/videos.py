"""Videos with given times, rates, channels and offsets."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

CLOCK = 90_000


def make_video(
    path: Path,
    times: Sequence[float],
    frames: Sequence[np.ndarray],
    sound: np.ndarray | None = None,
    rate: int = 16_000,
    sound_start: float = 0.0,
    vcodec: str = "mpeg4",
) -> Path:
    """Writes ``frames[i]`` at ``times[i]`` seconds, and ``sound`` [C, N] as 16-bit PCM (AAC in MP4)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        picture = container.add_stream(vcodec, rate=50)
        picture.height, picture.width = frames[0].shape[:2]
        picture.pix_fmt = "yuv420p"
        picture.bit_rate = 4_000_000
        picture.time_base = picture.codec_context.time_base = Fraction(1, 1000)
        layout = "mono" if sound is None or len(sound) == 1 else "stereo"
        track = (
            None
            if sound is None
            else container.add_stream("aac" if path.suffix == ".mp4" else "pcm_s16le", rate=rate, layout=layout)
        )
        for time, data in zip(times, frames, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(data), format="rgb24")
            frame.pts, frame.time_base = round(time * 1000), Fraction(1, 1000)
            container.mux(picture.encode(frame))
        container.mux(picture.encode(None))
        if sound is not None and track is not None:
            fmt = "fltp" if path.suffix == ".mp4" else "s16"
            for i in range(0, sound.shape[1], 1024):
                block = sound[:, i : i + 1024]
                data = block.astype(np.float32) if fmt == "fltp" else (block * 32767).astype(np.int16).T.reshape(1, -1)
                frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(data), format=fmt, layout=layout)
                frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
                frame.pts = i + round(sound_start * rate)
                container.mux(track.encode(frame))
            container.mux(track.encode(None))
    return path


def flash_and_beep(
    at: float, times: Sequence[float], seconds: float, rate: int, channels: int = 1, sound_start: float = 0.0
) -> tuple[list[np.ndarray], np.ndarray]:
    """Dark pictures that turn bright at ``at`` and stay; silence that turns into 1 kHz at ``at``, both on one clock."""
    frames = [np.full((64, 96, 3), 220 if t >= at - 1e-6 else 20, np.uint8) for t in times]
    clock = sound_start + np.arange(round((seconds - sound_start) * rate)) / rate
    return frames, np.tile(np.where(clock >= at, 0.5 * np.sin(2 * np.pi * 1000 * (clock - at)), 0.0), (channels, 1))


def turn_mp4(path: Path, degrees: int) -> None:
    """Sets the rotation flag (clockwise, to be applied by the player) in the picture's track header."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # version 0: the matrix follows 40 bytes of times, ids and volume
    cos, sin = {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    data[at : at + 36] = struct.pack(">9i", cos << 16, sin << 16, 0, -sin << 16, cos << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(bytes(data))
