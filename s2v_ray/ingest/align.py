"""Second stage of ingest: put the video and the audio of a file on one clock, at 25 fps and 16 kHz."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from s2v_ray.ingest.rejects import Reason, Reject
from s2v_ray.ingest.scan import ScannedFile
from s2v_ray.media import video
from s2v_ray.media.audio import AudioTrack
from s2v_ray.media.timing import FPS, SAMPLE_RATE, frames_to_samples


@dataclass(frozen=True)
class AlignedFile:
    """A scanned file with video and audio on a common clock: T frames at 25 fps.

    Attributes:
        scanned: the file.
        indices: int64 ``[T]``, index of the file's frame that is shown at each frame of the clip.
        speech: float32 ``[T * 640]``.
        landmarks: float ``[T, 5, 2]``, pixels.
        mouth_opening: float32 ``[T]``, or None.
    """

    scanned: ScannedFile
    indices: np.ndarray
    speech: np.ndarray
    landmarks: np.ndarray
    mouth_opening: np.ndarray | None


@dataclass(frozen=True)
class TemporalAlign:
    """Aligns video and audio by their timestamps, corrected by the source's measured offset, and keeps their overlap.

    Attributes:
        min_seconds: shorter overlaps are rejected.
    """

    min_seconds: float

    def process(self, scanned: ScannedFile) -> AlignedFile:
        """Aligns one file.

        Raises:
            Reject: video and audio overlap for less than ``min_seconds``.
        """
        times = scanned.times
        audio = replace(scanned.audio, start=scanned.audio.start - scanned.source.audio_delay / FPS)
        first = int(np.searchsorted(times, audio.start - video.MAX_EARLY_SECONDS))
        period = float(np.median(np.diff(times))) if len(times) > 1 else 1 / FPS
        start = times[min(first, len(times) - 1)]
        seconds = min(times[-1] + period, audio.end) - start
        count = round(seconds * FPS)
        if count < 1 or seconds < self.min_seconds:
            raise Reject(
                Reason.TOO_SHORT,
                f"video and audio overlap for {max(seconds, 0):.2f} s, ingest.min_seconds is {self.min_seconds}",
            )
        indices = video.frame_indices(times, start, count)
        return AlignedFile(
            scanned,
            indices,
            _audio_window(audio, start, count),
            _interpolate_landmarks(scanned, times[indices]),
            None if scanned.mouth_opening is None else scanned.mouth_opening[indices],
        )


def _interpolate_landmarks(scanned: ScannedFile, times: np.ndarray) -> np.ndarray:
    """Returns the landmarks at ``times`` ``[T]``, float ``[T, 5, 2]``."""
    flat = scanned.landmarks.reshape(len(scanned.landmarks), 10)
    columns = [np.interp(times, scanned.landmark_times, values) for values in flat.T]
    return np.stack(columns, axis=1).reshape(len(times), 5, 2)


def _audio_window(audio: AudioTrack, start: float, frames: int) -> np.ndarray:
    """Returns the samples of ``frames`` video frames from time ``start``; zeros where there is no audio."""
    speech = np.zeros(frames_to_samples(frames), np.float32)
    skip = round((start - audio.start) * SAMPLE_RATE)
    part = audio.samples[max(skip, 0) :][: max(len(speech) - max(-skip, 0), 0)]
    speech[max(-skip, 0) : max(-skip, 0) + len(part)] = part
    return speech
