"""Alignment of audio and video: a flash and a tone at the same time stay together at any rate and offset."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from s2v_ray.clip import Clip
from s2v_ray.ingest.align import TemporalAlign
from s2v_ray.ingest.crop import Process
from s2v_ray.ingest.rejects import Reason
from s2v_ray.ingest.scan import ScannedFile
from s2v_ray.ingest.sources import SourceClip
from s2v_ray.media.audio import AudioTrack
from s2v_ray.media.timing import SAMPLE_RATE, frames_to_samples
from tests.helpers.faces import StubDetector
from tests.helpers.ingested import RECIPE, ingest_file, onsets, rejection
from tests.helpers.videos import flash_and_beep, make_video

VARIABLE = np.sort(np.random.default_rng(0).choice(np.arange(0, 2000, 7), 90, replace=False)) / 1000


@pytest.mark.parametrize(
    ("times", "rate", "channels", "delay"),
    [
        (np.arange(50) / 25, 16_000, 1, 0.0),
        (np.arange(120) / 60, 44_100, 2, 0.0),
        (np.arange(48) * 1001 / 24_000, 48_000, 1, 0.0),
        (VARIABLE - VARIABLE[0], 22_050, 1, 0.0),
        (np.arange(50) / 25, 8_000, 2, 0.0),
        (np.arange(50) / 25, 16_000, 1, 0.32),
        (np.arange(60) / 30, 16_000, 1, 0.5),
        (0.24 + np.arange(50) / 25, 16_000, 1, 0.0),
    ],
    ids=["25", "60", "23.976", "variable", "8k-stereo", "audio-late", "30-audio-late", "video-late"],
)
def test_flash_and_tone_stay_together(
    tmp_path: Path, detector: StubDetector, times: np.ndarray, rate: int, channels: int, delay: float
) -> None:
    at = float(times[np.searchsorted(times, 1.2)])
    frames, sound = flash_and_beep(at, times, 2.2, rate, channels, delay)
    (clip,) = ingest_file(make_video(tmp_path / "a.mkv", times, frames, sound, rate, delay))
    flash, tone = onsets(clip)
    begin = max(float(times[0]), delay)
    assert abs(flash - tone) <= 0.55  # half a frame: frames lie on a grid, samples practically do not
    assert abs(tone / 25 + begin - at) <= 0.02 + 0.003
    assert len(clip.speech) == len(clip.frames) * 640
    assert abs(len(clip.frames) / 25 - (float(times[-1]) + 0.03 - begin)) < 0.06


def test_overlaps_that_are_too_short(tmp_path: Path, detector: StubDetector) -> None:
    times = np.arange(50) / 25
    frames, sound = flash_and_beep(0.5, times, 2.0, 16_000)
    assert rejection(make_video(tmp_path / "short.mkv", times[:10], frames[:10], sound)) == Reason.TOO_SHORT
    assert rejection(make_video(tmp_path / "apart.mkv", times, frames, sound, sound_start=1.5)) == Reason.TOO_SHORT


@pytest.mark.parametrize("delay", [-5, -2, 0, 1, 4])
def test_correction_restores_the_synchronous_clip(tmp_path: Path, detector: StubDetector, delay: int) -> None:
    """Two files of one recording, one with shifted timestamps of the audio: corrected, it gives the same clip."""
    rng = np.random.default_rng(0)
    times = 0.24 + np.arange(40) / 25
    pictures = [np.full((64, 96, 3), v, np.uint8) for v in rng.integers(30, 220, 40)]
    sound = rng.uniform(-0.5, 0.5, (1, 2 * SAMPLE_RATE))

    def ingested(name: str, moved: int, corrected: int) -> Clip:
        path = make_video(tmp_path / name, times, pictures, sound, SAMPLE_RATE, 0.2 + moved / 25)
        (clip,) = [c.clip for c in Process(RECIPE).process(SourceClip(str(path), name, "anna", audio_delay=corrected))]
        return clip

    original, restored = ingested("original.mkv", 0, 0), ingested("late.mkv", delay, delay)
    assert np.array_equal(restored.frames, original.frames)
    assert np.array_equal(restored.speech, original.speech)
    assert restored.id == original.id
    uncorrected = ingested("again.mkv", delay, 0)
    assert (uncorrected.id == original.id) == (delay == 0)


@pytest.mark.parametrize("delay", [-3, 0, 4])
def test_frames_without_audio_after_the_correction_are_dropped(delay: int) -> None:
    samples = np.arange(frames_to_samples(50), dtype=np.float32) / 1e5
    source = SourceClip("", "a.mp4", "anna", audio_delay=delay)
    audio = AudioTrack(samples, 0.0, 1.0, True)
    scanned = ScannedFile(source, "", audio, np.arange(50) / 25, np.zeros(1), np.zeros((1, 5, 2)), None)
    aligned = TemporalAlign(0.5).process(scanned)
    assert aligned.indices.tolist() == list(range(max(0, -delay), min(50, 50 - delay)))
    first = frames_to_samples(int(aligned.indices[0]) + delay)
    assert np.array_equal(aligned.speech, samples[first : first + frames_to_samples(50 - abs(delay))])
