"""The measured number of live sessions."""

from __future__ import annotations

import pytest

from s2v_ray.inference.predictor import Predictor
from s2v_ray.serving import live_capacity
from s2v_ray.serving.live_capacity import LOAD, MAX_SESSIONS, MEASURED_FRAMES, capacity, measure_capacity

AUDIO_SECONDS = MEASURED_FRAMES / 25


def test_the_capacity_takes_a_share_of_the_time() -> None:
    def seconds(sessions: int) -> float:
        return 0.1 + 0.05 * sessions

    found = capacity(seconds(1), seconds(4))
    assert seconds(found) <= LOAD * AUDIO_SECONDS < seconds(found + 1)


@pytest.mark.parametrize(
    ("few", "many", "expected"),
    [(10.0, 40.0, 1), (1e-6, 2e-6, MAX_SESSIONS), (0.2, 0.1, MAX_SESSIONS)],  # slow, fast, and disturbed
)
def test_the_capacity_is_limited(few: float, many: float, expected: int) -> None:
    assert capacity(few, many) == expected


def test_a_bundle_is_measured(uris: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    predictor, runs = Predictor(uris["bundle"]), []
    run = live_capacity._run_sessions
    monkeypatch.setattr(live_capacity, "_run_sessions", lambda *args: runs.append(args[1]) or run(*args))
    assert 1 <= measure_capacity(predictor) <= MAX_SESSIONS
    assert runs == [1, 1, 1, 4, 4]
    assert measure_capacity(Predictor(uris["reference"])) == 1
    assert len(runs) == 5
