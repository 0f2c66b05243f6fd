from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from s2v_ray.media import video
from tests.helpers.videos import flash_and_beep, make_video, turn_mp4


def moving(count: int, size: int = 64) -> list[np.ndarray]:
    """A white square that moves right by one pixel a frame."""
    frames = np.full((count, size, size, 3), 30, np.uint8)
    for i, frame in enumerate(frames):
        frame[24:40, i % (size - 16) : i % (size - 16) + 16] = 230
    return list(frames)


def bursts(seconds: float) -> np.ndarray:
    speech = np.random.default_rng(0).normal(0, 0.1, round(seconds * 16_000)).astype(np.float32)
    speech[:8_000] = 0
    return speech.clip(-1, 1)


def test_an_mp4_is_read_back_in_sync(tmp_path: Path) -> None:
    frames, speech = moving(50), bursts(2.0)
    video.write_mp4(tmp_path / "a.mp4", frames, speech, metadata=video.SYNTHETIC)
    back = video.read_video(tmp_path / "a.mp4")
    assert back.frames.shape == (50, 64, 64, 3) and back.fps == pytest.approx(25)
    assert np.allclose(back.times, np.arange(50) / 25, atol=1e-3)
    assert np.abs(back.frames.astype(int) - np.stack(frames)).mean() < 3
    assert back.audio is not None and abs(back.audio.start) < 1e-3
    lag = np.correlate(back.speech[: len(speech)], speech, "full").argmax() - (len(speech) - 1)
    assert lag == 0  # AAC's 1024 priming samples are cut off


def test_an_mp4_has_its_metadata_and_its_index_first(tmp_path: Path) -> None:
    video.write_mp4(tmp_path / "a.mp4", moving(5), None, metadata=video.SYNTHETIC)
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.metadata["comment"].startswith("synthetic")
        assert not container.streams.audio
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_an_mp4_has_the_same_bytes_every_time_and_for_chunks(tmp_path: Path) -> None:
    speech = bursts(1.0)
    video.write_mp4(tmp_path / "a.mp4", moving(25), speech)
    video.write_mp4(tmp_path / "b.mp4", iter(moving(25)), speech)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    video.write_mp4(tmp_path / "c.mp4", moving(25), (speech[i : i + 3000] for i in range(0, 16_000, 3000)))
    chunked, whole = video.read_video(tmp_path / "c.mp4"), video.read_video(tmp_path / "a.mp4")
    assert np.array_equal(chunked.speech, whole.speech)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    video.write_mp4(tmp_path / "a.mp4", moving(5), None)
    before = (tmp_path / "a.mp4").read_bytes()
    with pytest.raises(ValueError, match="no frames"):
        video.write_mp4(tmp_path / "a.mp4", [], None)
    with pytest.raises(ValueError, match="even sides"):
        video.write_mp4(tmp_path / "a.mp4", [np.zeros((63, 64, 3), np.uint8)], None)

    def breaks() -> object:
        yield np.zeros((64, 64, 3), np.uint8)
        raise RuntimeError("the generator broke")

    with pytest.raises(RuntimeError):
        video.write_mp4(tmp_path / "a.mp4", breaks(), None)  # type: ignore[arg-type]
    assert (tmp_path / "a.mp4").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_the_rotation_flag_is_applied(tmp_path: Path, degrees: int) -> None:
    picture = np.full((64, 96, 3), 20, np.uint8)
    picture[:32, :48] = (230, 40, 40)  # red in the upper left
    path = make_video(tmp_path / "a.mp4", [0.0, 0.04, 0.08], [picture] * 3)
    turn_mp4(path, degrees)
    shown = video.read_video(path).frames[0]
    expected = np.rot90(picture, -degrees // 90)
    assert shown.shape == expected.shape
    assert np.abs(shown.astype(int) - expected).mean() < 12


def test_pixels_become_square(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 96, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    assert video.read_video(tmp_path / "a.mp4").frames.shape == (3, 64, 128, 3)


def test_times_are_those_of_the_file(tmp_path: Path) -> None:
    times = [0.0, 0.04, 0.05, 0.3, 0.31]
    path = make_video(tmp_path / "a.mkv", times, moving(5))
    assert np.allclose(video.read_video(path).times, times, atol=2e-3)


@pytest.mark.parametrize(
    ("fps", "indices"), [(25, [0, 1, 2, 3, 4]), (50, [0, 2, 4, 6, 8]), (60, [0, 2, 5, 7, 10]), (12.5, [0, 0, 1, 1, 2])]
)
def test_frame_indices_at_constant_rates(fps: float, indices: list[int]) -> None:
    assert video.frame_indices(np.arange(20) / fps, 0.0, 5).tolist() == indices


def test_frame_indices_repeat_a_frame_until_the_next() -> None:
    times = np.array([0.0, 1.0, 1.01])
    picked = video.frame_indices(times, 0.0, 30)
    assert picked[:25].tolist() == [0] * 25 and picked[25:].tolist() == [1] + [2] * 4
    assert video.frame_indices(np.array([0.3]), 0.3, 3).tolist() == [0, 0, 0]
    jittered = np.arange(25) / 25 + np.random.default_rng(0).uniform(-0.015, 0.015, 25)
    assert video.frame_indices(np.sort(jittered), 0.0, 25).tolist() == list(range(25))


def test_flash_is_at_its_time_at_60_fps(tmp_path: Path) -> None:
    times = np.arange(120) / 60
    frames, sound = flash_and_beep(1.0, times, 2.0, 16_000)
    back = video.read_video(make_video(tmp_path / "a.mkv", times, frames, sound))
    bright = back.frames[video.frame_indices(back.times, 0.0, 50)].mean((1, 2, 3)) > 120
    assert bright.argmax() == 25
