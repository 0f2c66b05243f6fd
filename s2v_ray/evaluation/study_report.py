"""Statistics of a user study: which condition looks more natural, and how often the emotion is recognised."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TypedDict

from scipy.stats import binomtest

from s2v_ray import storage
from s2v_ray.evaluation.user_study import CONDITIONS, STUDY_SCHEMA, answers_uri


class Share(TypedDict):
    """A share of ``count`` answers, with the ends of its 95% Wilson interval."""

    share: float
    low: float
    high: float
    count: int


class Preference(Share):
    """How often ``condition`` was taken for the more natural one when it was shown together with ``over``."""

    condition: str
    over: str


class Recognition(Share):
    """How often the emotion of clips in ``condition`` was named correctly."""

    condition: str


class StudyReport(TypedDict):
    """The report of a study: numbers of participants and answers, and the shares."""

    participants: int
    answers: int
    preference: list[Preference]
    emotion: list[Recognition]


def compute_report(uri: str) -> StudyReport:
    """Computes the report of the study at ``uri``.

    The intervals assume that answers are independent. With few participants they are too narrow.

    Raises:
        ArtifactError: there is no study, or an answer is damaged.
    """
    storage.read_manifest(uri, "study", STUDY_SCHEMA)
    answers = [storage.read_json(answer) for answer in storage.list_files(answers_uri(uri), ".json")]
    preferred: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    recognised: dict[str, Counter[bool]] = defaultdict(Counter)
    for answer in answers:
        if answer["kind"] == "pair":
            first, second = sorted(answer["clips"], key=CONDITIONS.index)
            preferred[first, second][answer["clips"][0 if answer["answer"] == "left" else 1]] += 1
        else:
            recognised[answer["clips"][0]][answer["answer"] == answer["truth"]] += 1
    return StudyReport(
        participants=len({answer["participant"] for answer in answers}),
        answers=len(answers),
        preference=[
            Preference(condition=first, over=second, **share_of(votes[first], votes.total()))
            for (first, second), votes in sorted(preferred.items())
        ],
        emotion=[
            Recognition(condition=condition, **share_of(correct[True], correct.total()))
            for condition, correct in sorted(recognised.items())
        ],
    )


def share_of(successes: int, count: int) -> Share:
    """Share of successes with its 95% Wilson score interval (Wilson 1927, JASA 22)."""
    interval = binomtest(successes, count).proportion_ci(confidence_level=0.95, method="wilson")
    return Share(share=successes / count, low=float(interval.low), high=float(interval.high), count=count)


def format_report(result: StudyReport) -> str:
    """Formats the report as a table for the terminal."""
    rows: list[tuple[str, Share]] = []
    for preference in result["preference"]:
        rows.append((f"{preference['condition']} more natural than {preference['over']}", preference))
    for recognition in result["emotion"]:
        rows.append((f"emotion named correctly: {recognition['condition']}", recognition))
    width = max((len(name) for name, _ in rows), default=0)
    lines = [f"{result['participants']} participants, {result['answers']} answers; share and 95% interval"]
    lines += [
        f"{name:{width}}  {r['share']:.3f}  {r['low']:.3f} to {r['high']:.3f}  of {r['count']}" for name, r in rows
    ]
    return "\n".join(lines)
