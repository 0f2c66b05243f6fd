"""Statistics of answers, and Wilson intervals against published values."""

from __future__ import annotations

from pathlib import Path

import pytest

from s2v_ray import storage
from s2v_ray.evaluation.study_report import compute_report, format_report, share_of
from s2v_ray.evaluation.user_study import REAL, SPEECH, answers_uri, read_plan, trials_of
from tests.helpers.studies import make_small_study


def write_answers(uri: str, participants: list[str]) -> None:
    """Every participant prefers real clips, otherwise the left one, and names every speech-only clip happy."""
    plan = read_plan(uri)
    for participant in participants:
        for trial in trials_of(plan, participant):
            truth = plan.items[trial.item].emotion
            if trial.kind == "pair":
                answer = ("left", "right")[trial.clips.index(REAL)] if REAL in trial.clips else "left"
            else:
                answer = truth if trial.clips[0] != SPEECH else "happy"
            record = {"participant": participant, "kind": trial.kind, "clips": list(trial.clips)}
            record |= {"answer": answer, "truth": truth}
            storage.write_json(storage.join(answers_uri(uri), participant, f"{trial.trial}.json"), record)


def test_answers_are_counted(tmp_path: Path) -> None:
    uri = make_small_study(tmp_path)
    write_answers(uri, ["0123456789abcdef" * 2, "a" * 32])
    result = compute_report(uri)
    assert (result["participants"], result["answers"]) == (2, 30)
    preference = {(r["condition"], r["over"]): r for r in result["preference"]}
    assert preference[REAL, SPEECH]["share"] == 1.0
    assert preference[REAL, SPEECH]["count"] == 6
    assert preference[REAL, SPEECH]["low"] == pytest.approx(0.6097, abs=1e-4)
    recognised = {r["condition"]: r["share"] for r in result["emotion"]}
    assert recognised[REAL] == 1.0
    assert recognised[SPEECH] < 1.0
    assert f"{REAL} more natural than {SPEECH}" in format_report(result)


def test_a_study_without_answers(tmp_path: Path) -> None:
    result = compute_report(make_small_study(tmp_path))
    assert result == {"participants": 0, "answers": 0, "preference": [], "emotion": []}
    assert format_report(result).startswith("0 participants, 0 answers")


def test_wilson_intervals() -> None:
    """Newcombe 1998, Statist. Med. 17, method 3, gives these values for 8 of 10."""
    found = share_of(8, 10)
    assert (found["share"], found["count"]) == (0.8, 10)
    assert found["low"] == pytest.approx(0.4902, abs=1e-4)
    assert found["high"] == pytest.approx(0.9433, abs=1e-4)
    assert share_of(0, 5)["low"] == 0.0
    assert share_of(5, 5)["high"] == 1.0
