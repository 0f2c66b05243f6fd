"""Participants get their trials and clips, and each of their answers is stored once."""

from __future__ import annotations

from pathlib import Path

import pytest

from s2v_ray import storage
from s2v_ray.evaluation.user_study import REAL, SPEECH
from s2v_ray.serving.errors import ApiError
from s2v_ray.serving.study import Answer, Study
from tests.helpers.studies import make_small_study

PARTICIPANT = "0123456789abcdef" * 2


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return make_small_study(tmp_path)


def test_nothing_reveals_the_condition_and_only_clips_are_served(uri: str) -> None:
    study = Study(uri)
    session = study.begin(None)
    assert len(session.participant) == 32
    assert session.answered == []
    assert REAL not in str(session) and SPEECH not in str(session)
    assert study.clip("01.mp4") == b"01.mp4"
    for name in ("../manifest.json", "manifest.json", "/etc/passwd"):
        with pytest.raises(ApiError, match="no such clip"):
            study.clip(name)


def test_an_answer_is_stored(uri: str) -> None:
    study = Study(uri)
    pair = next(t for t in study.trials(PARTICIPANT) if t.kind == "pair")
    study.store_answer(Answer(participant=PARTICIPANT, trial=pair.trial, answer="left", milliseconds=900))
    assert Study(uri).begin(PARTICIPANT).answered == [pair.trial]
    assert storage.read_json(f"{uri}/answers/{PARTICIPANT}/{pair.trial}.json") == {
        "participant": PARTICIPANT,
        "trial": pair.trial,
        "answer": "left",
        "milliseconds": 900,
        "kind": "pair",
        "item": pair.item,
        "clips": list(pair.clips),
        "truth": study.plan.items[pair.item].emotion,
    }


def test_unusable_answers_are_refused(uri: str) -> None:
    study = Study(uri)
    pair = next(t for t in study.trials(PARTICIPANT) if t.kind == "pair")
    study.store_answer(Answer(participant=PARTICIPANT, trial=pair.trial, answer="left"))
    for answer, code in (
        (Answer(participant=PARTICIPANT, trial=pair.trial, answer="right"), "already_answered"),
        (Answer(participant=PARTICIPANT, trial=99, answer="left"), "bad_request"),
        (Answer(participant=PARTICIPANT, trial=(pair.trial + 1) % 15, answer="bored"), "bad_request"),
        (Answer(participant="../../x", trial=0, answer="left"), "bad_request"),
    ):
        with pytest.raises(ApiError) as caught:
            study.store_answer(answer)
        assert caught.value.code == code
