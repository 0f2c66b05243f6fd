"""The study: seeded orders, answers that stay, and intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from s2v_ray import storage
from s2v_ray.evaluation.user_study import REAL, REFERENCE, SCHEMA, SPEECH, Answer, Study, format_report, report, wilson
from s2v_ray.serving.errors import ApiError

WHO = "0123456789abcdef" * 2


@pytest.fixture
def uri(tmp_path: Path) -> str:
    items = []
    for n in range(6):
        clips = {c: f"{n}{k}.mp4" for k, c in enumerate((REAL, REFERENCE, SPEECH))}
        items.append({"clip": f"c{n}", "speaker": "s", "emotion": ("happy", "sad")[n % 2], "clips": clips})
        for name in clips.values():
            storage.write_bytes(str(tmp_path / "clips" / name), name.encode())
    fields: dict[str, Any] = {"seed": 1, "pairs": 9, "singles": 6, "emotions": ["happy", "sad"], "items": items}
    storage.write_manifest(str(tmp_path), "study", SCHEMA, config_digest="", parents={}, **fields)
    return str(tmp_path)


def test_an_order_is_the_participants_own_and_does_not_change(uri: str) -> None:
    study = Study(uri)
    trials = study.trials(WHO)
    assert trials == Study(uri).trials(WHO) != study.trials("f" * 32)
    pairs = [frozenset(t.clips) for t in trials if t.kind == "pair"]
    assert sorted(map(sorted, pairs)) == sorted(
        [sorted(p) for p in ({REAL, REFERENCE}, {REAL, SPEECH}, {REFERENCE, SPEECH})] * 3
    )
    singles = [t.clips for t in trials if t.kind == "emotion"]
    assert sorted(singles) == sorted([(REAL,), (REFERENCE,), (SPEECH,)] * 2)
    assert [t.trial for t in trials] == list(range(15))


def test_sides_are_drawn_by_lot(uri: str) -> None:
    study = Study(uri)
    firsts = [t.clips[0] for n in range(40) for t in study.trials(f"{n:032x}") if set(t.clips) == {REAL, SPEECH}]
    assert 40 < firsts.count(REAL) < 80  # of 120


def test_names_tell_nothing_and_only_clips_are_given_out(uri: str) -> None:
    study = Study(uri)
    shown = study.begin(None)
    assert len(shown["participant"]) == 32 and shown["answered"] == []
    assert REAL not in str(shown) and SPEECH not in str(shown)
    assert study.clip("01.mp4") == b"01.mp4"
    for name in ("../manifest.json", "manifest.json", "/etc/passwd"):
        with pytest.raises(ApiError, match="no such clip"):
            study.clip(name)


def test_an_answer_stays_and_is_given_once(uri: str) -> None:
    study = Study(uri)
    trials = study.trials(WHO)
    pair = next(t for t in trials if t.kind == "pair")
    study.answer(Answer(participant=WHO, trial=pair.trial, answer="left", milliseconds=900))
    assert Study(uri).begin(WHO)["answered"] == [pair.trial]
    kept = storage.read_json(f"{uri}/answers/{WHO}/{pair.trial}.json")
    assert kept["clips"] == list(pair.clips) and kept["answer"] == "left" and kept["milliseconds"] == 900
    for answer, code in (
        (Answer(participant=WHO, trial=pair.trial, answer="right"), "already_answered"),
        (Answer(participant=WHO, trial=99, answer="left"), "bad_request"),
        (Answer(participant=WHO, trial=(pair.trial + 1) % 15, answer="bored"), "bad_request"),
        (Answer(participant="../../x", trial=0, answer="left"), "bad_request"),
    ):
        with pytest.raises(ApiError) as refusal:
            study.answer(answer)
        assert refusal.value.code == code


def test_the_report_counts(uri: str) -> None:
    study = Study(uri)
    for who in (WHO, "a" * 32):
        for t in study.trials(who):
            if t.kind == "pair":  # everybody always prefers what is real, and otherwise what is on the left
                answer = ("left", "right")[t.clips.index(REAL)] if REAL in t.clips else "left"
            else:
                answer = study.manifest["items"][t.item]["emotion"] if t.clips[0] != SPEECH else "happy"
            study.answer(Answer(participant=who, trial=t.trial, answer=answer))
    result = report(uri)
    assert (result["participants"], result["answers"]) == (2, 30)
    preference = {(r["condition"], r["over"]): r for r in result["preference"]}
    assert preference[REAL, SPEECH]["share"] == 1.0 and preference[REAL, SPEECH]["count"] == 6
    assert preference[REAL, SPEECH]["low"] == pytest.approx(0.6097, abs=1e-4)
    assert {r["condition"]: r["share"] for r in result["emotion"]}[REAL] == 1.0
    assert f"{REAL} taken for the more natural, over {SPEECH}" in format_report(result)


def test_wilson_is_wilsons() -> None:
    found = wilson(8, 10)  # Newcombe 1998, Statist. Med. 17, method 3, gives these for 8 of 10
    assert (found["low"], found["high"]) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    assert wilson(0, 5)["low"] == 0.0 and wilson(5, 5)["high"] == 1.0


def test_an_empty_study_reports_nothing(uri: str) -> None:
    assert report(uri) == {"participants": 0, "answers": 0, "preference": [], "emotion": []}
