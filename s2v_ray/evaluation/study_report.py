"""Statistics of a user study: which condition looks more natural, and how often the emotion is recognised."""

from __future__ import annotations

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, TypedDict

from scipy.stats import binomtest

from s2v_ray import storage
from s2v_ray.evaluation.equivalence import MARGIN, answers_needed, equivalence_of
from s2v_ray.evaluation.rows import REFERENCE_OTHER, SPEECH
from s2v_ray.evaluation.user_study import CONDITIONS, REAL, answers_uri, read_plan

HUMAN_RECOGNITION = {"voice": 0.400, "face": 0.574, "voice and face": 0.631}
"""Shares of votes that name one of six acted emotions of real recordings correctly (CREMA-D, Cao et al. 2014)."""
MIN_CHECKS = 0.75
"""Smallest share of attention checks of a participant whose answers are counted."""
COLUMNS = ("participant", "counted", "trial", "kind", "item", "left", "right", "answer", "truth", "milliseconds")


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


class EquivalenceResult(TypedDict):
    """Whether speech only and the reference baseline are preferred equally often; see ``evaluation.equivalence``.

    ``answers_needed``: answers with which the test succeeds in 80% of studies if there is no difference.
    """

    p_value: float
    equivalent: bool
    margin: float
    answers: int
    answers_needed: int


class StudyReport(TypedDict):
    """The report of a study.

    ``participants``, ``answers``: those that are counted. ``excluded``: participants with fewer than three quarters of
    the attention checks right. ``equivalence``: None without answers that compare the two conditions.
    """

    participants: int
    excluded: int
    answers: int
    preference: list[Preference]
    equivalence: EquivalenceResult | None
    emotion: list[Recognition]


def read_answers(uri: str) -> list[dict[str, Any]]:
    """Read all answers of the study at ``uri``; ``counted`` is whether their participant passes the attention checks.

    Raises:
        ArtifactError: there is no study, or an answer is damaged.
    """
    read_plan(uri)
    answers = [storage.read_json(answer) for answer in storage.list_files(answers_uri(uri), ".json")]
    checks: dict[str, list[bool]] = defaultdict(list)
    for answer in answers:
        if answer["kind"] == "check":
            checks[answer["participant"]].append(_chosen(answer) == REAL)
    excluded = {who for who, right in checks.items() if sum(right) < MIN_CHECKS * len(right)}
    return [answer | {"counted": answer["participant"] not in excluded} for answer in answers]


def compute_report(found: Sequence[dict[str, Any]]) -> StudyReport:
    """Compute the report of a study from its answers (``read_answers``).

    The intervals assume that answers are independent. With few participants they are too narrow.
    """
    answers = [answer for answer in found if answer["counted"] and answer["kind"] != "check"]
    preferred: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    recognised: dict[str, Counter[bool]] = defaultdict(Counter)
    for answer in answers:
        if answer["kind"] == "pair":
            first, second = sorted(answer["clips"], key=CONDITIONS.index)
            preferred[first, second][_chosen(answer)] += 1
        else:
            recognised[answer["clips"][0]][answer["answer"] == answer["truth"]] += 1
    return StudyReport(
        participants=len({answer["participant"] for answer in answers}),
        excluded=len({answer["participant"] for answer in found if not answer["counted"]}),
        answers=len(answers),
        preference=[
            Preference(condition=first, over=second, **share_of(votes[first], votes.total()))
            for (first, second), votes in sorted(preferred.items())
        ],
        equivalence=_equivalence(preferred[REFERENCE_OTHER, SPEECH]),
        emotion=[
            Recognition(condition=condition, **share_of(correct[True], correct.total()))
            for condition, correct in sorted(recognised.items())
        ],
    )


def share_of(successes: int, count: int) -> Share:
    """Share of successes with its 95% Wilson score interval (Wilson 1927, JASA 22)."""
    interval = binomtest(successes, count).proportion_ci(confidence_level=0.95, method="wilson")
    return Share(share=successes / count, low=float(interval.low), high=float(interval.high), count=count)


def answers_csv(answers: Sequence[dict[str, Any]]) -> str:
    """Format answers as CSV with a header, one line for each; ``left`` and ``right`` are conditions."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for answer in sorted(answers, key=lambda a: (a["participant"], a["trial"])):
        sides = dict(zip(("left", "right"), answer["clips"], strict=False))  # a single clip is on the left
        writer.writerow(answer | sides)
    return text.getvalue()


def format_report(result: StudyReport) -> str:
    """Format the report as a table for the terminal."""
    rows: list[tuple[str, Share]] = []
    for preference in result["preference"]:
        rows.append((f"{preference['condition']} more natural than {preference['over']}", preference))
    for recognition in result["emotion"]:
        rows.append((f"emotion named correctly: {recognition['condition']}", recognition))
    width = max((len(name) for name, _ in rows), default=0)
    excluded = f", {result['excluded']} excluded by the attention checks" if result["excluded"] else ""
    lines = [f"{result['participants']} participants{excluded}, {result['answers']} answers; share and 95% interval"]
    lines += [
        f"{name:{width}}  {r['share']:.3f}  {r['low']:.3f} to {r['high']:.3f}  of {r['count']}" for name, r in rows
    ]
    if result["emotion"]:
        known = ", ".join(f"{name} {share:.1%}" for name, share in HUMAN_RECOGNITION.items())
        lines.append(f"for comparison, people on real recordings, one of six emotions (CREMA-D): {known}")
    if found := result["equivalence"]:
        verdict = "equivalent" if found["equivalent"] else "not shown to be equivalent"
        lines.append(
            f"speech only and reference baseline: {verdict} within {found['margin']:.0%} (p = {found['p_value']:.3f}; "
            f"{found['answers']} answers, {found['answers_needed']} are needed)"
        )
    return "\n".join(lines)


def _chosen(answer: dict[str, Any]) -> str:
    """Condition that was chosen in a comparison."""
    chosen: str = answer["clips"][0 if answer["answer"] == "left" else 1]
    return chosen


def _equivalence(votes: Counter[str]) -> EquivalenceResult | None:
    if not votes:
        return None
    found = equivalence_of(votes[SPEECH], votes.total())
    return EquivalenceResult(
        p_value=found.p_value,
        equivalent=found.equivalent,
        margin=found.margin,
        answers=votes.total(),
        answers_needed=answers_needed(MARGIN),
    )
