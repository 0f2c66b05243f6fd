"""Live sessions and videos share the thread of a model; an error ends only the sessions that took part."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from s2v_ray.inference.live import LiveFrame, LiveRequest, LiveSession
from s2v_ray.inference.predictor import Predictor
from s2v_ray.inference.request import GenerationRequest
from s2v_ray.serving import live_pool
from s2v_ray.serving.batching import Batcher
from s2v_ray.serving.live_pool import Delivery, LiveStream
from tests.helpers.sounds import speech


@pytest.fixture(scope="module")
def predictor(uris: dict[str, str]) -> Predictor:
    return Predictor(uris["bundle"])


class Reader:
    """Collects what a session delivers until it has ended."""

    def __init__(self, batcher: Batcher, seed: int) -> None:
        self.frames: list[LiveFrame] = []
        self.error: Exception | None = None
        self.ended = asyncio.Event()
        self.batcher = batcher
        self.stream = LiveStream(LiveSession(batcher.predictor, LiveRequest(seed=seed)), self.deliver)
        batcher.live.add(self.stream)

    def deliver(self, item: Delivery) -> None:
        if item is None or isinstance(item, Exception):
            self.error = item
            self.ended.set()
        else:
            self.frames += item

    async def talk(self, sound: np.ndarray) -> list[LiveFrame]:
        for i in range(0, len(sound), 1000):
            self.batcher.live.push(self.stream, sound[i : i + 1000])
            await asyncio.sleep(0)
        self.batcher.live.finish(self.stream)
        await asyncio.wait_for(self.ended.wait(), 20)
        self.batcher.live.remove(self.stream)
        return self.frames


def test_sessions_and_videos_get_the_frames_that_they_would_get_alone(predictor: Predictor) -> None:
    sounds = [speech(1.0, seed) for seed in range(3)]
    alone = []
    for seed, sound in enumerate(sounds):
        session = LiveSession(predictor, LiveRequest(seed=seed))
        session.push(sound)
        session.finish()
        alone.append(np.stack([frame.pixels for frame in session.drain()]))
    video = np.concatenate(list(predictor.generate(GenerationRequest(speech(2.0)))))
    batcher = Batcher(predictor, 32)

    async def run() -> tuple[list[list[LiveFrame]], np.ndarray]:
        readers = [Reader(batcher, seed) for seed in range(3)]

        async def collect() -> np.ndarray:
            return np.concatenate([part async for part in batcher.generate(GenerationRequest(speech(2.0)))])

        *talks, made = await asyncio.gather(*(r.talk(s) for r, s in zip(readers, sounds, strict=True)), collect())
        return talks, made

    talks, made = asyncio.run(run())
    batcher.close(timeout=10)
    for frames, expected in zip(talks, alone, strict=True):
        assert [f.index for f in frames] == list(range(25))
        assert np.abs(np.stack([f.pixels for f in frames]).astype(int) - expected).max() <= 1
    assert np.abs(made.astype(int) - video).max() <= 1
    assert batcher.live.frames == 75
    assert batcher.live.active == 0


def test_an_error_ends_the_sessions_of_the_batch(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    batcher = Batcher(predictor, 32)

    def fail(*_: object) -> None:
        raise RuntimeError("no memory")

    async def run() -> None:
        failing = Reader(batcher, 0)
        with monkeypatch.context() as patch:
            patch.setattr(live_pool, "advance", fail)
            await failing.talk(speech(0.5))
        assert isinstance(failing.error, RuntimeError)
        assert len(await Reader(batcher, 0).talk(speech(0.4))) == 10

    asyncio.run(run())
    batcher.close(timeout=10)
    assert not batcher._thread.is_alive()


def test_unusable_speech_ends_its_own_session_only(predictor: Predictor) -> None:
    batcher = Batcher(predictor, 32)

    async def run() -> None:
        bad, good = Reader(batcher, 0), Reader(batcher, 1)
        batcher.live.push(bad.stream, np.full(640, np.nan, np.float32))
        assert len(await good.talk(speech(0.4))) == 10
        await asyncio.wait_for(bad.ended.wait(), 5)
        assert isinstance(bad.error, ValueError)
        batcher.live.remove(bad.stream)

    asyncio.run(run())
    batcher.close(timeout=10)


def test_a_batcher_with_a_session_is_not_closed_before_the_session(predictor: Predictor) -> None:
    batcher = Batcher(predictor, 32)

    async def run() -> list[LiveFrame]:
        reader = Reader(batcher, 0)
        batcher.close()
        return await reader.talk(speech(0.4))

    assert len(asyncio.run(run())) == 10
    batcher.close(timeout=10)
    assert not batcher._thread.is_alive()
