from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from s2v_ray.media import audio
from tests.helpers.sounds import wav


def write_wav(path: Path, samples: np.ndarray, rate: int) -> Path:
    """``samples``: float ``[channels, N]``."""
    path.write_bytes(wav(samples.T, rate))
    return path


def test_log_mel_has_four_frames_under_each_video_frame() -> None:
    assert audio.log_mel(torch.zeros(2, 640 * 7)).shape == (2, 80, 28)


def test_log_mel_of_silence_is_the_floor() -> None:
    floor = (np.log(1e-5) - audio.LOG_MEAN) / audio.LOG_STD
    assert torch.allclose(audio.log_mel(torch.zeros(1, 640)), torch.full((1, 80, 4), floor))


@pytest.mark.parametrize("at", [0, 640, 1000, 3199])
def test_an_impulse_affects_only_the_windows_that_contain_it(at: int) -> None:
    speech = torch.zeros(1, 3200)
    speech[0, at] = 1.0
    changed = (audio.log_mel(speech) - audio.log_mel(torch.zeros(1, 3200))).abs().amax(1)[0] > 1e-4
    middles = torch.arange(20) * 160 + 80
    inside = (at - middles).abs() < 200  # half of 25 ms
    assert torch.equal(changed & ~inside, torch.zeros(20, dtype=torch.bool))
    assert changed[at // 160]


def test_log_mel_peaks_at_the_band_of_a_tone() -> None:
    t = torch.arange(16_000) / 16_000
    low, high = (audio.log_mel(0.5 * torch.sin(2 * torch.pi * f * t)[None])[0, :, 50].argmax() for f in (300.0, 3000.0))
    assert abs(int(low) - 7) <= 1  # slaney mel: 300 Hz = 4.5 of 45.2 mel, 81 steps
    assert abs(int(high) - 53) <= 2  # 3000 Hz = 30.98 mel


def test_log_mel_of_chunks_is_that_of_the_whole() -> None:
    speech = torch.randn(1, 640 * 12) * 0.1
    whole = audio.log_mel(speech)
    part = audio.log_mel(speech[:, 640 * 3 : 640 * 9])  # one frame of context at either side, then dropped
    assert torch.allclose(whole[:, :, 16:32], part[:, :, 4:20], atol=1e-5)


def test_log_mel_is_float32_under_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert audio.log_mel(torch.randn(1, 640)).dtype == torch.float32


def test_log_mel_refuses_other_lengths() -> None:
    with pytest.raises(ValueError, match="multiple of 160"):
        audio.log_mel(torch.zeros(1, 641))


@pytest.mark.parametrize(("rate", "channels"), [(8_000, 2), (16_000, 1), (22_050, 1), (44_100, 2), (48_000, 2)])
def test_any_rate_and_channels_keep_tone_level_and_time(tmp_path: Path, rate: int, channels: int) -> None:
    t = np.arange(rate) / rate
    tone = np.where(t >= 0.25, 0.5 * np.sin(2 * np.pi * 440 * t), 0)
    speech = audio.read_speech(write_wav(tmp_path / "a.wav", np.tile(tone, (channels, 1)), rate))
    assert speech.dtype == np.float32 and abs(len(speech) - 16_000) <= 1
    assert abs(int(np.flatnonzero(np.abs(speech) > 0.05)[0]) - 4_000) < 16
    spectrum = np.abs(np.fft.rfft(speech[6_000:14_000]))
    assert spectrum.argmax() * 2 == 440
    assert np.sqrt((speech[6_000:14_000] ** 2).mean()) == pytest.approx(0.5 / np.sqrt(2), rel=0.01)


def test_channels_are_averaged(tmp_path: Path) -> None:
    left = 0.5 * np.sin(np.arange(16_000) / 10)
    speech = audio.read_speech(write_wav(tmp_path / "a.wav", np.stack([left, np.zeros_like(left)]), 16_000))
    assert np.abs(speech - left / 2).max() < 1e-3


def test_unreadable_and_missing_files_are_errors(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"this is no sound at all")
    with pytest.raises(ValueError, match="cannot be read"):
        audio.read_speech(tmp_path / "a.wav")
    with pytest.raises(ValueError, match="there is no file"):
        audio.read_speech(tmp_path / "b.wav")


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_resampling_in_blocks_equals_resampling_the_whole(rate: int) -> None:
    samples = np.random.default_rng(0).uniform(-1, 1, 3 * rate + 17).astype(np.float32)
    blocks = list(audio.resample_blocks(audio.split_blocks(samples, 1000), rate))
    assert len(blocks) > 3
    np.testing.assert_allclose(np.concatenate(blocks), audio.resample(samples, rate), atol=1e-6)


def test_a_rate_without_a_common_divisor_is_refused() -> None:
    with pytest.raises(ValueError, match="a sample rate of 44101 Hz is not supported: convert the audio to 16000"):
        audio.resample(np.zeros(100, np.float32), 44_101)


def test_an_audio_track_has_its_place_in_time(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", np.full((1, 8_000), 0.5), 16_000)
    track = audio.read_audio(path)
    assert track is not None
    assert (track.start, track.end, track.complete) == (0.0, 0.5, True)
    assert track.peak == pytest.approx(0.5, abs=1e-4)


def test_samples_that_are_not_finite_become_silence() -> None:
    samples = np.array([np.nan, np.inf, -np.inf, 2.0, -0.5], np.float32)
    assert audio.to_finite(samples).tolist() == [0.0, 0.0, 0.0, 1.0, -0.5]
