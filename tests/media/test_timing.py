from __future__ import annotations

from s2v_ray.media import timing


def test_a_frame_has_whole_numbers_of_samples_and_mel_frames() -> None:
    assert timing.SAMPLES_PER_FRAME == 640
    assert timing.SAMPLES_PER_FRAME * timing.FPS == timing.SAMPLE_RATE
    assert timing.MEL_PER_FRAME == 4
    assert timing.MEL_PER_FRAME * timing.MEL_HOP == timing.SAMPLES_PER_FRAME


def test_conversions() -> None:
    assert timing.frames_to_samples(3) == 1920
    assert [timing.samples_to_frames(n) for n in (0, 1, 640, 641)] == [0, 1, 1, 2]
    assert [timing.seconds_to_frames(s) for s in (0.0, 0.03, 1.0)] == [0, 1, 25]
