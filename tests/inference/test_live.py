"""Live sessions: frames of the same speech as a file, for any chunks; flat memory; no drift; lost audio is counted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from s2v_ray.inference.live import LiveFrame, LiveRequest, LiveSession, advance
from s2v_ray.inference.predictor import Predictor
from s2v_ray.inference.request import GenerationRequest
from s2v_ray.media.timing import SAMPLE_RATE, SAMPLES_PER_FRAME
from tests.helpers.bundles import DIM, SIZE, make_bundle
from tests.helpers.sounds import speech


@pytest.fixture(scope="module")
def moving(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    """A predictor whose motion prior has trajectories."""
    predictor = Predictor(make_bundle(tmp_path_factory.mktemp("moving")))
    random = torch.Generator().manual_seed(0)
    predictor.model.motion_prior.fill([torch.randn(n, 3, generator=random) for n in (30, 45)])
    return predictor


def chunks(sound: np.ndarray, largest: int, seed: int = 0) -> Iterator[np.ndarray]:
    rng, at = np.random.default_rng(seed), 0
    while at < len(sound):
        size = int(rng.integers(1, largest))
        yield sound[at : at + size]
        at += size


def run(session: LiveSession, sound: np.ndarray, largest: int = 2000) -> list[LiveFrame]:
    frames: list[LiveFrame] = []
    for chunk in chunks(sound, largest):
        session.push(chunk)
        frames += session.drain()
    session.finish()
    return [*frames, *session.drain()]


@pytest.mark.parametrize("largest", [700, 5000, 60_000])
def test_frames_equal_those_of_a_file_with_the_same_codes(moving: Predictor, largest: int) -> None:
    sound = speech(2.51)
    identity = torch.nn.functional.normalize(torch.arange(DIM) - 15.5, dim=0)
    expected = np.concatenate(list(moving.generate(GenerationRequest(sound, identity, "happy", seed=4))))
    frames = run(LiveSession(moving, LiveRequest(identity, "happy", seed=4)), sound, largest)
    assert [f.index for f in frames] == list(range(63)) == list(range(len(expected)))
    assert expected.std(axis=0).max() > 3  # something moves
    # A value on the edge of two grey levels may round either way.
    assert np.abs(np.stack([f.pixels for f in frames]).astype(int) - expected).max() <= 1


def test_frames_with_predicted_codes_do_not_depend_on_the_chunks(moving: Predictor) -> None:
    sound = speech(4.0)
    one = run(LiveSession(moving, LiveRequest(seed=2)), sound, 900)
    other = run(LiveSession(moving, LiveRequest(seed=2)), sound, 40_000)
    assert len(one) == len(other) == 100
    assert max(np.abs(a.pixels.astype(int) - b.pixels).max() for a, b in zip(one, other, strict=True)) <= 1


def test_sessions_in_one_batch_get_the_frames_that_they_would_get_alone(moving: Predictor) -> None:
    sounds = [speech(1.0, seed) for seed in range(3)]
    alone = [run(LiveSession(moving, LiveRequest(seed=i)), sound) for i, sound in enumerate(sounds)]
    sessions = [LiveSession(moving, LiveRequest(seed=i)) for i in range(3)]
    made: list[list[LiveFrame]] = [[] for _ in sessions]
    for at in range(0, len(sounds[0]), 1600):
        for i, session in enumerate(sessions):
            session.push(sounds[i][at : at + 1600])
            if at + 1600 >= len(sounds[i]):
                session.finish()
        while ready := [i for i, session in enumerate(sessions) if session.pending]:
            for i, frames in zip(ready, advance([sessions[i] for i in ready], 3), strict=True):
                made[i] += frames
    for frames, expected in zip(made, alone, strict=True):
        assert [f.index for f in frames] == list(range(25))
        assert max(np.abs(a.pixels.astype(int) - b.pixels).max() for a, b in zip(frames, expected, strict=True)) <= 1


def test_a_frame_comes_after_its_look_ahead(predictor: Predictor) -> None:
    """Frame i is generated when the frame after the content encoder's delay has ended, and a mel window more."""
    session = LiveSession(predictor, LiveRequest())
    ahead = predictor.model.student.future_frames
    arrived: dict[int, int] = {}
    for chunk in range(200):
        session.push(speech(0.01))
        arrived |= {frame.index: chunk + 1 for frame in session.drain()}  # in units of 10 ms
    latest = max(4 * -(-at // 4) - 4 * index for index, at in arrived.items())
    assert latest <= 4 * (1 + ahead)


def test_memory_does_not_grow(moving: Predictor) -> None:
    session = LiveSession(moving, LiveRequest())
    sizes = []
    for i in range(100):
        session.push(speech(0.16, i % 5))
        for _ in session.drain():
            pass
        sizes.append(session.state_bytes())
    assert max(sizes[50:]) <= 1.001 * max(sizes[:50])  # segments of motion differ in length
    assert session.frames == 400 - session.encoder.delay - 1


def test_an_hour_has_no_drift(moving: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts only: the networks are replaced by functions without arithmetic."""
    session = LiveSession(moving, LiveRequest(torch.ones(DIM), "happy"))
    encode = session.encoder.encode

    def count(states: list[object], steps: int) -> list[torch.Tensor]:
        state = session.content
        made = max(0, steps - max(0, session.encoder.delay - state.steps))
        state.samples, state.steps = state.samples[steps * SAMPLES_PER_FRAME :], state.steps + steps
        return [torch.zeros(made, 16)]

    session.push(speech(0.04))
    session.push(speech(0.04))
    encode([session.content], session.pending)  # the first mel frame
    monkeypatch.setattr(session.encoder, "encode", count)
    monkeypatch.setattr(
        moving.model.generator, "forward", lambda codes, content, motion, noise: torch.zeros(len(content), 1, 3, 1, 1)
    )
    block, last, frames = np.zeros(10 * SAMPLE_RATE + 1, np.float32), -1, 0
    lost = 0
    for i in range(360):
        if i % 10 == 9:
            session.lose(len(block))
            lost += len(block)
        else:
            session.push(block)
        while session.pending:
            for frame in advance([session], 512)[0]:
                assert frame.index == last + 1
                last, frames = frame.index, frames + 1
    assert session.received == 2 * SAMPLES_PER_FRAME + 360 * (10 * SAMPLE_RATE + 1)
    assert session.lost == lost
    received = session.received / SAMPLE_RATE
    behind = received - (last + 1) / 25
    assert 0 <= behind <= 0.04 * (1 + moving.model.student.future_frames)
    assert session.skipped == 0


def test_lost_audio_is_silence_and_counted(moving: Predictor) -> None:
    sound = speech(1.0)
    silent = np.concatenate([sound[:5000], np.zeros(3000, np.float32), sound[5000:]])
    expected = run(LiveSession(moving, LiveRequest()), silent)
    session = LiveSession(moving, LiveRequest())
    session.push(sound[:5000])
    session.lose(3000)
    session.push(sound[5000:])
    session.finish()
    frames = list(session.drain())
    assert (session.lost, session.received) == (3000, 30 * SAMPLES_PER_FRAME)
    assert max(np.abs(a.pixels.astype(int) - b.pixels).max() for a, b in zip(frames, expected, strict=True)) <= 1


def test_a_backlog_is_skipped_and_counted(moving: Predictor) -> None:
    sound = speech(4.0)
    expected = run(LiveSession(moving, LiveRequest()), sound)
    session = LiveSession(moving, LiveRequest(max_backlog=10))
    session.push(sound)
    session.finish()
    frames = list(session.drain())
    assert session.frames == 100
    assert session.skipped == 100 - len(frames) > 50
    assert frames[-1].index == 99
    assert frames[-1].seconds == pytest.approx(3.96)
    for frame in frames:  # state and motion continue through skipped frames
        assert np.abs(frame.pixels.astype(int) - expected[frame.index].pixels).max() <= 1


def test_codes_are_reported(moving: Predictor) -> None:
    session = LiveSession(moving, LiveRequest())
    run(session, speech(3.0))
    updates = list(session.code_updates)
    assert updates[0].frame == 25
    assert [u.voiced for u in updates] == sorted(u.voiced for u in updates)
    assert not list(session.code_updates)


def test_the_take_of_another_clip_replaces_the_first_one_smoothly(moving: Predictor) -> None:
    session = LiveSession(moving, LiveRequest())
    dim = moving.model.take_prior.dim
    wanted = iter([torch.zeros(1, dim), torch.ones(30, dim)])
    moving.model.take_prior.sample = lambda *_: next(wanted)  # type: ignore[method-assign]
    try:
        codes = torch.zeros(30, DIM), torch.zeros(30, 4)
        first = session._takes(codes[0][:1], codes[1][:1])
        later = session._takes(*codes)
    finally:
        del moving.model.take_prior.sample
    assert first.eq(0).all()
    expected = 1 - torch.exp(-torch.arange(1.0, 31) / 15)  # 0.6 s are 15 frames
    torch.testing.assert_close(later, expected[:, None].expand(-1, dim))


def test_a_take_of_a_picture_is_used(moving: Predictor) -> None:
    def last(level: int) -> np.ndarray:
        take = np.full((SIZE, SIZE, 3), level, np.uint8)
        return run(LiveSession(moving, LiveRequest(take=take)), speech(0.5))[-1].pixels

    assert not np.array_equal(last(20), last(220))


@pytest.mark.parametrize(
    ("speech_", "message"),
    [
        (np.full(10, np.nan, np.float32), "finite and mono"),
        (np.full(10, np.inf, np.float32), "finite and mono"),
        (np.zeros((2, 640), np.float32), "finite and mono"),
    ],
)
def test_unusable_speech_is_an_error(predictor: Predictor, speech_: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LiveSession(predictor, LiveRequest()).push(speech_)


def test_a_finished_session_takes_no_more_speech(predictor: Predictor) -> None:
    session = LiveSession(predictor, LiveRequest())
    session.finish()
    assert not list(session.drain())
    with pytest.raises(ValueError, match="the session is finished"):
        session.push(np.zeros(1, np.float32))


def test_a_reference_bundle_has_no_live_sessions(reference_bundle: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a reference bundle has no live sessions"):
        LiveSession(Predictor(reference_bundle), LiveRequest())
