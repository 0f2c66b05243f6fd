"""Speeches drawn together come out as they would alone, and a caller's trouble stays the caller's."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from s2v_ray.inference.predictor import Predictor
from s2v_ray.serving.batching import AHEAD, Batcher


@pytest.fixture(scope="module")
def predictor(places: dict[str, str]) -> Predictor:
    return Predictor(places["bundle"], heard_frames=20)


@pytest.fixture
def batcher(predictor: Predictor) -> Iterator[Batcher]:
    made = Batcher(predictor, 32)
    yield made
    made.close()


async def collect(batcher: Batcher, speech: np.ndarray, **options: Any) -> np.ndarray:
    return np.concatenate([part async for part in batcher.draw(speech, **options)])


def test_frames_are_those_drawn_alone(batcher: Batcher, predictor: Predictor, make: Any) -> None:
    speeches = [make.speech(s, seed=i) for i, s in enumerate((0.04, 0.5, 1.0, 2.5, 3.0))]
    options: list[dict[str, Any]] = [
        {"seed": i, "emotion": e} for i, e in enumerate((None, "happy", None, "angry", "neutral"))
    ]

    async def all_at_once() -> list[np.ndarray]:
        return await asyncio.gather(*(collect(batcher, s, **o) for s, o in zip(speeches, options, strict=True)))

    together = asyncio.run(all_at_once())
    alone = [np.concatenate(list(predictor.generate(s, **o))) for s, o in zip(speeches, options, strict=True)]
    for a, b in zip(together, alone, strict=True):
        assert a.shape == b.shape
        assert np.abs(a.astype(int) - b).max() <= 1  # a value on the edge of two grey levels may round either way
    drawn_alone = sum(-(-len(a) // 16) for a in alone)
    assert batcher.frames == sum(map(len, alone)) and batcher.batches < drawn_alone + 4  # they did share batches


def test_reference_bundles_keep_their_stills_apart(places: dict[str, str], make: Any) -> None:
    predictor = Predictor(places["reference"])
    batcher = Batcher(predictor, 32)
    stills = [np.full((32, 32, 3), v, np.uint8) for v in (20, 220)]

    async def both() -> list[np.ndarray]:
        return await asyncio.gather(*(collect(batcher, make.speech(0.4), still=s) for s in stills))

    for made, still in zip(asyncio.run(both()), stills, strict=True):
        assert (
            np.abs(made.astype(int) - np.concatenate(list(predictor.generate(make.speech(0.4), still=still)))).max()
            <= 1
        )
    batcher.close()


def test_a_slow_reader_is_not_drawn_ahead_of(batcher: Batcher, make: Any) -> None:
    async def read_one() -> int:
        parts = batcher.draw(make.speech(10.0))
        await anext(parts)
        await asyncio.sleep(0.5)
        drawn = batcher.frames
        await parts.aclose()  # type: ignore[attr-defined]
        return drawn

    drawn = asyncio.run(read_one())
    assert drawn <= (AHEAD + 1) * 16 < 250
    assert len(asyncio.run(collect(batcher, make.speech(0.2)))) == 5  # who left early holds nobody up


def test_an_error_ends_those_in_the_batch_and_nobody_else(
    batcher: Batcher, predictor: Predictor, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(predictor, "hear_on", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            asyncio.run(collect(batcher, make.speech(0.2)))
    assert len(asyncio.run(collect(batcher, make.speech(0.2)))) == 5


def test_bad_input_is_refused_before_it_waits(batcher: Batcher, make: Any) -> None:
    async def bad() -> None:
        batcher.draw(make.speech(0.2), emotion="bored")

    with pytest.raises(ValueError, match="unknown emotion"):
        asyncio.run(bad())


def test_other_work_runs_on_the_same_thread(batcher: Batcher) -> None:
    import threading

    assert asyncio.run(batcher.run(lambda: threading.current_thread().name)) == "draw"
    with pytest.raises(KeyError):
        asyncio.run(batcher.run(lambda: {}["nothing"]))


def test_codes_of_a_stream_are_heard_in_its_beginning(predictor: Predictor, make: Any) -> None:
    speech = make.speech(3.0)
    listened = np.concatenate(list(predictor.generate(speech, listen=25)))
    codes = predictor.hear(speech[: 25 * 640])
    assert len(listened) == 75
    told = np.concatenate(list(predictor.generate(speech, identity=codes.identity, emotion=codes.emotion)))
    assert np.abs(listened.astype(int) - told).max() <= 1
