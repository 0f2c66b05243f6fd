"""Statistics of answers, and Wilson intervals against published values."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from s2v_ray import storage
from s2v_ray.evaluation.study_report import answers_csv, compute_report, format_report, read_answers, share_of
from s2v_ray.evaluation.user_study import DEGRADED, REAL, SPEECH, answers_uri, read_plan, trials_of
from tests.helpers.studies import make_small_study


def write_answers(uri: str, participants: list[str], attentive: bool = True) -> None:
    """Every participant prefers real clips, otherwise the left one, and names every speech-only clip happy."""
    plan = read_plan(uri)
    for participant in participants:
        for trial in trials_of(plan, participant):
            truth = plan.items[trial.item].emotion
            if trial.kind == "emotion":
                answer = truth if trial.clips[0] != SPEECH else "happy"
            else:
                side = trial.clips.index(REAL) if REAL in trial.clips else 0
                answer = ("left", "right")[side if attentive or trial.kind == "pair" else 1 - side]
            record = {"participant": participant, "kind": trial.kind, "item": trial.item, "clips": list(trial.clips)}
            record |= {"answer": answer, "truth": truth, "trial": trial.trial, "milliseconds": 900}
            storage.write_json(storage.join(answers_uri(uri), participant, f"{trial.trial}.json"), record)


def test_answers_are_counted(tmp_path: Path) -> None:
    uri = make_small_study(tmp_path)
    participants = [f"{n:032x}" for n in range(2, 4)]
    write_answers(uri, participants)
    result = compute_report(read_answers(uri))
    assert (result["participants"], result["excluded"], result["answers"]) == (2, 0, 30)
    preference = {(r["condition"], r["over"]): r for r in result["preference"]}
    assert preference[REAL, SPEECH]["share"] == 1.0
    assert preference[REAL, SPEECH]["count"] == 6
    assert preference[REAL, SPEECH]["low"] == pytest.approx(0.6097, abs=1e-4)
    recognised = {r["condition"]: r["share"] for r in result["emotion"]}
    assert recognised[REAL] == 1.0
    plan = read_plan(uri)
    shown = [t for who in participants for t in trials_of(plan, who) if t.clips == (SPEECH,)]
    assert recognised[SPEECH] == sum(plan.items[t.item].emotion == "happy" for t in shown) / 4
    text = format_report(result)
    assert f"{REAL} more natural than {SPEECH}" in text
    assert "excluded" not in text
    assert "voice 40.0%, face 57.4%, voice and face 63.1%" in text


def test_the_left_side_is_preferred_as_often_for_either_condition(tmp_path: Path) -> None:
    uri = make_small_study(tmp_path)
    write_answers(uri, [f"{n:032x}" for n in range(40)])
    found = compute_report(read_answers(uri))["equivalence"]
    assert found is not None
    assert (found["answers"], found["answers_needed"]) == (120, 215)
    text = format_report(compute_report(read_answers(uri)))
    verdict = "equivalent" if found["equivalent"] else "not shown to be equivalent"
    assert f"speech only and reference baseline: {verdict} within 10%" in text


def test_participants_who_fail_the_attention_checks_are_excluded(tmp_path: Path) -> None:
    uri = make_small_study(tmp_path)
    write_answers(uri, ["a" * 32])
    alone = compute_report(read_answers(uri))
    write_answers(uri, ["b" * 32, "c" * 32], attentive=False)
    result = compute_report(read_answers(uri))
    assert result == alone | {"excluded": 2}
    assert "1 participants, 2 excluded by the attention checks, 15 answers" in format_report(result)
    assert {a["participant"][0] for a in read_answers(uri) if not a["counted"]} == {"b", "c"}


def test_a_study_without_answers(tmp_path: Path) -> None:
    result = compute_report(read_answers(make_small_study(tmp_path)))
    empty = {"participants": 0, "excluded": 0, "answers": 0, "preference": [], "equivalence": None, "emotion": []}
    assert result == empty
    assert format_report(result).startswith("0 participants, 0 answers")


def test_answers_are_exported_as_csv(tmp_path: Path) -> None:
    uri = make_small_study(tmp_path)
    write_answers(uri, ["b" * 32, "a" * 32])
    rows = list(csv.DictReader(io.StringIO(answers_csv(read_answers(uri)))))
    assert [(r["participant"][0], r["trial"]) for r in rows] == [(who, str(n)) for who in "ab" for n in range(17)]
    pair = next(r for r in rows if r["kind"] == "check")
    assert {pair["left"], pair["right"]} == {REAL, DEGRADED}
    assert pair[pair["answer"]] == REAL
    single = next(r for r in rows if r["kind"] == "emotion")
    assert (single["right"], single["milliseconds"], single["counted"]) == ("", "900", "True")


def test_wilson_intervals() -> None:
    """Newcombe 1998, Statist. Med. 17, method 3, gives these values for 8 of 10."""
    found = share_of(8, 10)
    assert (found["share"], found["count"]) == (0.8, 10)
    assert found["low"] == pytest.approx(0.4902, abs=1e-4)
    assert found["high"] == pytest.approx(0.9433, abs=1e-4)
    assert share_of(0, 5)["low"] == 0.0
    assert share_of(5, 5)["high"] == 1.0
