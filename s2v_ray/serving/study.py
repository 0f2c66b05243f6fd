"""The user study as the endpoint presents it: trials, clips and answers of participants."""

from __future__ import annotations

import re
import secrets
from typing import Literal

from pydantic import BaseModel

from s2v_ray import storage
from s2v_ray.config import Section
from s2v_ray.evaluation.user_study import StudyItem, Trial, answers_uri, clip_uri, read_plan, trials_of
from s2v_ray.serving.errors import ApiError

PARTICIPANT = re.compile(r"[0-9a-f]{32}")
SIDES = ("left", "right")


class Answer(Section):
    """A participant's answer to one trial.

    Attributes:
        participant: id of the participant.
        trial: index of the trial.
        answer: left or right for a pair, or the name of an emotion.
        milliseconds: time between the trial and the answer.
    """

    participant: str
    trial: int
    answer: str
    milliseconds: int = 0


class ShownTrial(BaseModel):
    """A trial as the page gets it; ``clips`` are names of files. An attention check is shown as a pair."""

    trial: int
    kind: Literal["pair", "emotion"]
    clips: list[str]

    @classmethod
    def of(cls, trial: Trial, item: StudyItem) -> ShownTrial:
        """What the page gets of a trial."""
        kind: Literal["pair", "emotion"] = "emotion" if trial.kind == "emotion" else "pair"
        return cls(trial=trial.trial, kind=kind, clips=[item.clips[condition] for condition in trial.clips])


class Session(BaseModel):
    """What the page needs; ``answered``: indices of the trials that have an answer."""

    participant: str
    emotions: list[str]
    trials: list[ShownTrial]
    answered: list[int]


class Study:
    """A study that participants answer.

    Args:
        uri: URI of the study.

    Raises:
        ArtifactError: there is no study at ``uri``.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.plan = read_plan(uri)
        self._files = {name for item in self.plan.items for name in item.clips.values()}

    def trials(self, participant: str) -> list[Trial]:
        """The trials of a participant."""
        return trials_of(self.plan, participant)

    def begin(self, participant: str | None) -> Session:
        """Begins or continues the study for a participant; None for a new one.

        Raises:
            ApiError: bad_request.
        """
        participant = secrets.token_hex(16) if participant is None else _checked(participant)
        trials = [ShownTrial.of(trial, self.plan.items[trial.item]) for trial in self.trials(participant)]
        answers = storage.list_files(storage.join(answers_uri(self.uri), participant), ".json")
        answered = sorted(int(uri.rpartition("/")[2].removesuffix(".json")) for uri in answers)
        return Session(participant=participant, emotions=list(self.plan.emotions), trials=trials, answered=answered)

    def clip(self, name: str) -> bytes:
        """The MP4 of that name.

        Raises:
            ApiError: not_found.
        """
        if name not in self._files:
            raise ApiError("not_found", "the study has no such clip: use the names of GET /v1/study")
        return storage.read_bytes(clip_uri(self.uri, name))

    def store_answer(self, answer: Answer) -> None:
        """Stores an answer; when the call returns, it is on disk or in the object store.

        Raises:
            ApiError: bad_request, already_answered.
        """
        trials = self.trials(_checked(answer.participant))
        if not 0 <= answer.trial < len(trials):
            raise ApiError("bad_request", f"trial: must be 0 to {len(trials) - 1}, not {answer.trial}")
        trial = trials[answer.trial]
        allowed = self.plan.emotions if trial.kind == "emotion" else SIDES
        if answer.answer not in allowed:
            raise ApiError("bad_request", f"answer: must be one of {', '.join(allowed)}")
        uri = storage.join(answers_uri(self.uri), answer.participant, f"{answer.trial}.json")
        if storage.exists(uri):
            raise ApiError("already_answered", f"trial {answer.trial} has an answer already: continue with the next")
        record = answer.model_dump() | {
            "kind": trial.kind,
            "item": trial.item,
            "clips": list(trial.clips),
            "truth": self.plan.items[trial.item].emotion,
        }
        storage.write_json(uri, record)


def _checked(participant: str) -> str:
    if not PARTICIPANT.fullmatch(participant):
        raise ApiError("bad_request", "participant: use the id that GET /v1/study gave you")
    return participant
