"""Any sound file becomes an MP4 with a synthetic tag; a failure leaves an existing file as it was."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import av
import numpy as np
import pytest

from s2v_ray.inference.predictor import Predictor
from s2v_ray.inference.writer import generate_file
from s2v_ray.logs import progress_of
from s2v_ray.media.audio import read_speech
from s2v_ray.media.timing import SAMPLE_RATE, SAMPLES_PER_FRAME
from s2v_ray.media.video import read_video, write_mp4
from s2v_ray.storage import ArtifactError
from tests.helpers.bundles import SIZE
from tests.helpers.sounds import speech, wav


def write_wav(path: Path, sound: np.ndarray, rate: int = SAMPLE_RATE) -> str:
    path.write_bytes(wav(sound, rate))
    return str(path)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_wav_becomes_a_tagged_mp4_with_its_sound_in_sync(
    bundle: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sound = np.zeros(2 * SAMPLE_RATE + 100, np.float32)
    clicks = [4000, 14000, 30000]
    for at in clicks:
        sound[at : at + 200] = 0.8 * np.sin(np.arange(200) * 0.8)
    out = str(tmp_path / "deep" / "out.mp4")
    with caplog.at_level(logging.INFO, logger="s2v_ray"):
        result = generate_file(bundle, write_wav(tmp_path / "in.wav", sound), out)
    assert asdict(result).keys() == {"output", "frames", "seconds", "elapsed", "realtime_factor"}
    assert (result.output, result.frames, result.seconds) == (out, 51, 51 / 25)
    assert result.realtime_factor == pytest.approx(result.seconds / result.elapsed)
    last = caplog.records[-1]
    assert last.getMessage() == "2.0 of 2.0 s generated"
    progress = progress_of(last)
    assert progress is not None and progress.finished and progress.unit == "frames"
    video = read_video(out)
    assert video.frames.shape == (51, SIZE, SIZE, 3)
    np.testing.assert_allclose(video.times, np.arange(51) / 25, atol=1e-3)
    assert video.audio is not None and abs(video.audio.start) < 1e-3
    for at in clicks:  # where the sound is, to a millisecond
        window = np.abs(video.speech[at - 1600 : at + 1800])
        centre = (window**2 * np.arange(len(window))).sum() / (window**2).sum() - 1600
        assert centre == pytest.approx(100, abs=16)
    with av.open(out) as container:
        assert "synthetic" in container.metadata["comment"]
        assert container.streams.video[0].codec.name == "h264"
        assert container.streams.audio[0].codec.name == "aac"


def test_progress_is_logged_every_ten_seconds_of_video(
    predictor: Predictor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="s2v_ray"):
        generate_file(predictor, write_wav(tmp_path / "in.wav", speech(21.0)), str(tmp_path / "out.mp4"))
    done = [progress.done for record in caplog.records if (progress := progress_of(record))]
    assert len(done) == 3
    assert done[0] in range(250, 266)
    assert done[1] in range(500, 516)
    assert done[2] == 525


def encode(path: Path, codec: str, sound: np.ndarray, rate: int, sample_format: str) -> str:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout="mono", format=sample_format)
        data = (sound * 32767).astype(np.int16) if sample_format.startswith("s16") else sound
        frame = av.AudioFrame.from_ndarray(data[None], format=sample_format, layout="mono")
        frame.sample_rate = rate
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return str(path)


def test_any_container_can_be_read(predictor: Predictor, tmp_path: Path) -> None:
    sound = speech(1.0)
    grey = [np.full((32, 32, 3), 128, np.uint8)] * 25
    write_mp4(tmp_path / "in.mp4", grey, sound)
    inputs = {
        "flac": encode(tmp_path / "in.flac", "flac", sound, SAMPLE_RATE, "s16"),
        "mp3": encode(tmp_path / "in.mp3", "libmp3lame", sound, SAMPLE_RATE, "fltp"),
        "8 kHz": write_wav(tmp_path / "narrow.wav", sound[::2], 8000),
        "stereo 44.1 kHz": write_wav(
            tmp_path / "stereo.wav", np.stack([np.repeat(sound, 3)[:44100]] * 2, axis=1), 44100
        ),
        "clipped": write_wav(tmp_path / "clipped.wav", (20 * sound).clip(-1, 1)),
        "silence": write_wav(tmp_path / "silence.wav", 0 * sound),
        "one frame": write_wav(tmp_path / "short.wav", sound[:SAMPLES_PER_FRAME]),
        "the sound of a video": str(tmp_path / "in.mp4"),
    }
    expected = {"one frame": 1, "stereo 44.1 kHz": 25}
    padding = {"mp3": 3, "the sound of a video": 1}  # frames that coders add
    for name, path in inputs.items():
        result = generate_file(predictor, path, str(tmp_path / "out.mp4"))
        assert abs(result.frames - expected.get(name, 25)) <= padding.get(name, 0), name
        assert len(read_video(tmp_path / "out.mp4").frames) == result.frames, name


def test_the_same_input_gives_the_same_file(predictor: Predictor, tmp_path: Path) -> None:
    source = write_wav(tmp_path / "in.wav", speech(0.5))
    for name in ("a.mp4", "b.mp4"):
        generate_file(predictor, source, str(tmp_path / name), seed=4)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_input_and_output_can_be_uris(predictor: Predictor, tmp_path: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe_file("/in/speech.wav", wav(speech(0.5)))
    generate_file(predictor, "memory://in/speech.wav", "memory://out/face.mp4")
    (tmp_path / "back.mp4").write_bytes(memory.cat_file("/out/face.mp4"))
    assert len(read_video(tmp_path / "back.mp4").frames) == 13
    assert len(read_speech(tmp_path / "back.mp4")) >= 8000
    memory.pipe_file("/in/text.wav", b"no sound " * 99)
    for name, message in (
        ("nothing", "there is no file at memory://in/nothing.wav"),
        ("text", "^memory://in/text.wav cannot be read"),
    ):
        with pytest.raises(ValueError, match=message):
            generate_file(predictor, f"memory://in/{name}.wav", "memory://out/face.mp4")


def test_unusable_files_leave_the_earlier_output(predictor: Predictor, tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("this is not sound, whatever its name is. " * 50)
    write_mp4(tmp_path / "silent-film.mp4", [np.full((32, 32, 3), 128, np.uint8)] * 5, None)
    write_wav(tmp_path / "tiny.wav", speech(0.03))
    out = tmp_path / "out.mp4"
    out.write_bytes(b"earlier")
    for name, message in (
        ("nothing.wav", "no file (at )?.*nothing.wav"),
        ("text.wav", "text.wav cannot be read as sound or video"),
        ("silent-film.mp4", "silent-film.mp4 has no sound"),
        ("tiny.wav", "shorter than one video frame"),
        (".", "is a folder"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            generate_file(predictor, str(tmp_path / name), str(out))
        assert "\n" not in str(caught.value)
    assert out.read_bytes() == b"earlier"
    assert names_in(tmp_path) == ["out.mp4", "silent-film.mp4", "text.wav", "tiny.wav"]


def test_a_failure_on_the_way_leaves_the_earlier_output(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = write_wav(tmp_path / "in.wav", speech(1.0)), tmp_path / "out.mp4"
    out.write_bytes(b"earlier")

    def broken(_: object) -> Iterator[np.ndarray]:
        yield np.zeros((3, SIZE, SIZE, 3), np.uint8)
        raise RuntimeError("out of memory")

    monkeypatch.setattr(predictor, "generate", broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        generate_file(predictor, source, str(out))
    assert out.read_bytes() == b"earlier"
    assert names_in(tmp_path) == ["in.wav", "out.mp4"]


def test_targets_that_cannot_be_written(predictor: Predictor, tmp_path: Path) -> None:
    source = write_wav(tmp_path / "in.wav", speech(0.2))
    with pytest.raises(ValueError, match="is a folder: name the MP4 file"):
        generate_file(predictor, source, str(tmp_path))
    with pytest.raises(ArtifactError, match="cannot write to .*in.wav"):
        generate_file(predictor, source, f"{source}/out.mp4")


def test_a_missing_bundle_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="there is no bundle at"):
        generate_file(str(tmp_path), write_wav(tmp_path / "in.wav", speech(0.2)), str(tmp_path / "out.mp4"))
