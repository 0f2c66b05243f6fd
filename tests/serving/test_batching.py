"""Speeches drawn together come out as they would alone, and a caller's trouble stays the caller's."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import numpy as np
import pytest

from s2v_ray.inference.predictor import Predictor
from s2v_ray.inference.request import GenerationRequest
from s2v_ray.serving.batching import AHEAD, Batcher
from tests.helpers.sounds import speech


@pytest.fixture(scope="module")
def predictor(places: dict[str, str]) -> Predictor:
    return Predictor(places["bundle"], speech_chunk_frames=20)


@pytest.fixture
def batcher(predictor: Predictor) -> Iterator[Batcher]:
    made = Batcher(predictor, 32)
    yield made
    made.close()


async def collect(batcher: Batcher, request: GenerationRequest) -> np.ndarray:
    return np.concatenate([part async for part in batcher.draw(request)])


def test_frames_are_those_drawn_alone(batcher: Batcher, predictor: Predictor) -> None:
    seconds, emotions = (0.04, 0.5, 1.0, 2.5, 3.0), (None, "happy", None, "angry", "neutral")
    requests = [
        GenerationRequest(speech(s, seed=i), emotion=e, seed=i)
        for i, (s, e) in enumerate(zip(seconds, emotions, strict=True))
    ]

    async def all_at_once() -> list[np.ndarray]:
        return await asyncio.gather(*(collect(batcher, request) for request in requests))

    together = asyncio.run(all_at_once())
    alone = [np.concatenate(list(predictor.generate(request))) for request in requests]
    for a, b in zip(together, alone, strict=True):
        assert a.shape == b.shape
        assert np.abs(a.astype(int) - b).max() <= 1  # a value on the edge of two grey levels may round either way
    batches_alone = sum(-(-len(a) // 16) for a in alone)
    assert batcher.frames == sum(map(len, alone))
    assert batcher.batches < batches_alone + 4, "the requests shared batches"


def test_reference_bundles_keep_their_stills_apart(places: dict[str, str]) -> None:
    predictor = Predictor(places["reference"])
    batcher = Batcher(predictor, 32)
    requests = [GenerationRequest(speech(0.4), still=np.full((32, 32, 3), v, np.uint8)) for v in (20, 220)]

    async def both() -> list[np.ndarray]:
        return await asyncio.gather(*(collect(batcher, request) for request in requests))

    for made, request in zip(asyncio.run(both()), requests, strict=True):
        alone = np.concatenate(list(predictor.generate(request)))
        assert np.abs(made.astype(int) - alone).max() <= 1
    batcher.close()


def test_a_slow_reader_is_not_drawn_ahead_of(batcher: Batcher) -> None:
    async def read_one() -> int:
        parts = batcher.draw(GenerationRequest(speech(10.0)))
        await anext(parts)
        await asyncio.sleep(0.5)
        drawn = batcher.frames
        await parts.aclose()  # type: ignore[attr-defined]
        return drawn

    drawn = asyncio.run(read_one())
    assert drawn <= (AHEAD + 1) * 16
    assert (AHEAD + 1) * 16 < 250
    after = GenerationRequest(speech(0.2))
    assert len(asyncio.run(collect(batcher, after))) == 5, "a reader that left early does not block others"


def test_an_error_ends_those_in_the_batch_and_no_others(
    batcher: Batcher, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = GenerationRequest(speech(0.2))
    with monkeypatch.context() as patch:
        patch.setattr(predictor, "encode_next_chunk", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            asyncio.run(collect(batcher, request))
    assert len(asyncio.run(collect(batcher, request))) == 5


def test_bad_input_is_refused_before_it_waits(batcher: Batcher) -> None:
    async def bad() -> None:
        batcher.draw(GenerationRequest(speech(0.2), emotion="bored"))

    with pytest.raises(ValueError, match="unknown emotion"):
        asyncio.run(bad())


def test_other_work_runs_on_the_same_thread(batcher: Batcher) -> None:
    import threading

    assert asyncio.run(batcher.run(lambda: threading.current_thread().name)) == "draw"
    with pytest.raises(KeyError):
        asyncio.run(batcher.run(lambda: {}["nothing"]))
