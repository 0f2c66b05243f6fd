"""Requests in one batch get the frames that they would get alone; an error ends only those that took part."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from s2v_ray.inference.predictor import Predictor
from s2v_ray.inference.request import GenerationRequest
from s2v_ray.serving.batching import MAX_UNREAD_PARTS, Batcher
from tests.helpers.sounds import speech


@pytest.fixture(scope="module")
def predictor(uris: dict[str, str]) -> Predictor:
    return Predictor(uris["bundle"], speech_chunk_frames=20)


@pytest.fixture
def batcher(predictor: Predictor) -> Iterator[Batcher]:
    made = Batcher(predictor, 32)
    yield made
    made.close(timeout=10)


async def collect(batcher: Batcher, request: GenerationRequest) -> np.ndarray:
    return np.concatenate([part async for part in batcher.generate(request)])


def test_frames_are_those_of_single_requests(batcher: Batcher, predictor: Predictor) -> None:
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


def test_reference_bundles_keep_their_stills_apart(uris: dict[str, str]) -> None:
    predictor = Predictor(uris["reference"])
    batcher = Batcher(predictor, 32)
    requests = [GenerationRequest(speech(0.4), still=np.full((32, 32, 3), v, np.uint8)) for v in (20, 220)]

    async def both() -> list[np.ndarray]:
        return await asyncio.gather(*(collect(batcher, request) for request in requests))

    for made, request in zip(asyncio.run(both()), requests, strict=True):
        alone = np.concatenate(list(predictor.generate(request)))
        assert np.abs(made.astype(int) - alone).max() <= 1
    batcher.close(timeout=10)


def test_a_slow_reader_bounds_what_is_generated(batcher: Batcher) -> None:
    async def read_one() -> int:
        parts = batcher.generate(GenerationRequest(speech(10.0)))
        await anext(parts)
        await asyncio.sleep(0.5)
        generated = batcher.frames
        await parts.aclose()
        return generated

    generated = asyncio.run(read_one())
    assert generated <= (MAX_UNREAD_PARTS + 1) * 16
    assert (MAX_UNREAD_PARTS + 1) * 16 < 250
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
        batcher.generate(GenerationRequest(speech(0.2), emotion="bored"))

    with pytest.raises(ValueError, match="unknown emotion"):
        asyncio.run(bad())


def test_other_work_runs_on_the_same_thread(batcher: Batcher) -> None:
    assert asyncio.run(batcher.run(lambda: threading.current_thread().name)) == "generate"
    with pytest.raises(KeyError):
        asyncio.run(batcher.run(lambda: {}["nothing"]))


def test_a_closed_batcher_finishes_its_requests_and_ends(predictor: Predictor) -> None:
    batcher = Batcher(predictor, 32)

    async def close_early() -> int:
        parts = batcher.generate(GenerationRequest(speech(1.0)))
        frames = len(await anext(parts))
        batcher.close()
        return frames + sum([len(part) async for part in parts])

    assert asyncio.run(close_early()) == 25
    batcher.close(timeout=10)
    assert batcher.waiting == 0
    assert not batcher._thread.is_alive()
