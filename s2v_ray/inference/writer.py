"""File in, file out: generates the video of a speech file."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from s2v_ray import storage
from s2v_ray.inference.predictor import SPEECH_CHUNK_FRAMES, Predictor
from s2v_ray.inference.request import GenerationRequest, frames_of, pad_to_frames
from s2v_ray.logs import Progress, log_progress
from s2v_ray.media.audio import read_speech
from s2v_ray.media.timing import FPS
from s2v_ray.media.video import SYNTHETIC, write_mp4

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GeneratedFile:
    """Result of ``generate_file``.

    Attributes:
        output: path or URI of the MP4.
        frames: number of frames.
        seconds: duration of the video.
        elapsed: seconds that the call took, from reading the files to the finished MP4 (and loading the bundle, if its
            URI was given).
        realtime_factor: seconds of video for each second of work; above 1 is faster than real time.
    """

    output: str
    frames: int
    seconds: float
    elapsed: float
    realtime_factor: float


def generate_file(
    bundle: str | Predictor,
    speech_path: str,
    out_path: str,
    *,
    identity: Tensor | None = None,
    emotion: str | None = None,
    still: np.ndarray | None = None,
    take: np.ndarray | None = None,
    seed: int = 0,
) -> GeneratedFile:
    """Generates the talking face for a speech file as an H.264 + AAC MP4 with a synthetic tag.

    Logs progress about every ten seconds of video.

    Args:
        bundle: a loaded bundle, or the URI of one.
        speech_path: path or URI of a sound file, or of a video with sound, in any container that PyAV reads.
        out_path: path or URI of the MP4. An existing file is replaced only when the new one is complete.
        identity: as in ``GenerationRequest``.
        emotion: as in ``GenerationRequest``.
        still: as in ``GenerationRequest``.
        take: as in ``GenerationRequest``.
        seed: as in ``GenerationRequest``.

    Raises:
        ValueError: an input that cannot be used, or a target that cannot be written.
    """
    began = time.perf_counter()
    check_target(out_path)
    with tempfile.TemporaryDirectory(prefix="s2v-") as folder:
        predictor = Predictor(bundle) if isinstance(bundle, str) else bundle
        speech = pad_to_frames(read_speech_at(speech_path, folder))
        request = GenerationRequest(speech.numpy(), identity, emotion, still, take, seed)
        part = Path(folder) / "part.mp4"
        frames = _log_frames(predictor.generate(request), request.frames)
        write_mp4(part, frames, request.speech, metadata=SYNTHETIC)
        storage.write_bytes(out_path, part.read_bytes())
    count = frames_of(speech)
    elapsed = time.perf_counter() - began
    return GeneratedFile(out_path, count, count / FPS, elapsed, count / FPS / elapsed)


def read_speech_at(path: str, folder: str) -> np.ndarray:
    """All the speech at a path or URI, float32 ``[N]``; files of an object store are copied to ``folder`` first."""
    try:
        fs, inner = storage.filesystem(path)
        if fs.isdir(inner):
            raise ValueError(f"{path} is a folder: name a sound or video file in it")
        local = storage.download(path, folder)
    except FileNotFoundError:
        raise ValueError(f"there is no file at {path}: check the path of the speech") from None
    try:
        return read_speech(local)
    except ValueError as e:
        raise ValueError(str(e).replace(local, path)) from e


def check_target(path: str) -> None:
    """Checks before the work starts that the result can be written."""
    fs, inner = storage.filesystem(path)
    if fs.isdir(inner):
        raise ValueError(f"{path} is a folder: name the MP4 file to write")
    folder, slash, _ = path.rpartition("/")
    storage.check_writable(folder or ("/" if slash else "."))


def _log_frames(chunks: Iterable[np.ndarray], total: int) -> Iterator[np.ndarray]:
    """The frames of all chunks, one by one; logs progress after each ``SPEECH_CHUNK_FRAMES`` frames and at the end."""
    done = 0
    for chunk in chunks:
        yield from chunk
        before, done = done, done + len(chunk)
        if done == total or before // SPEECH_CHUNK_FRAMES < done // SPEECH_CHUNK_FRAMES:
            progress = Progress("generate", done, total, "frames")
            log_progress(logger, progress, "%.1f of %.1f s generated", done / FPS, total / FPS)
