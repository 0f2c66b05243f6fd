"""The bars that figures of an evaluation are held to: one table for each protocol (``evaluate.protocol``).

A figure and its bar were declared before anything was measured. A ratio of dB is no bar: a motionless still passes it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from s2v_ray.evaluation.results import BarResult, ClipResults, StudentResult
from s2v_ray.evaluation.rows import OTHER_TAKE, REAL, REFERENCE, REFERENCE_OTHER, SPEECH, SPEECH_TAKE, STILL

Value = Callable[[ClipResults, StudentResult], float | None]
"""Takes a figure from the results; None if it does not apply."""


@dataclass(frozen=True)
class Bar:
    """A figure and its limits.

    Attributes:
        key: name in ``results.json``.
        what: description.
        value: the figure.
        at_least: smallest value that meets the bar, or None if there is no limit on this side.
        at_most: largest value that meets the bar, or None.
    """

    key: str
    what: str
    value: Value
    at_least: Value | None = None
    at_most: Value | None = None


def _mean(row: str, metric: str) -> Value:
    def value(clips: ClipResults, _: StudentResult) -> float | None:
        found = clips["rows"].get(row)
        interval = found["values"].get(metric) if found else None
        return None if interval is None else interval["mean"]

    return value


def _ratio(metric: str, row: str, base: str) -> Value:
    def value(clips: ClipResults, student: StudentResult) -> float | None:
        a, b = _mean(row, metric)(clips, student), _mean(base, metric)(clips, student)
        return a / b if a is not None and b else None

    return value


def _times(factor: float, value: Value) -> Value:
    """A multiple of a positive figure; None if it is not positive, since a ratio to it would mean nothing."""

    def scaled(clips: ClipResults, student: StudentResult) -> float | None:
        found = value(clips, student)
        return factor * found if found is not None and found > 0 else None

    return scaled


def _constant(value: float) -> Value:
    return lambda _clips, _student: value


def _difference(row: str, base: str, metric: str, part: Literal["low", "margin"]) -> Value:
    """Lower end of a paired difference, or the limit that its margin sets."""

    def value(clips: ClipResults, _: StudentResult) -> float | None:
        for found in clips["differences"]:
            if (found["row"], found["base"], found["metric"]) == (row, base, metric):
                return found["low"] if part == "low" or found["margin"] is None else -found["margin"]
        return None

    return value


def _not_inferior(metric: str, name: str) -> Bar:
    what = f"{name} minus the reference baseline's, take of the same still: lower end of the 95% interval"
    value, limit = (_difference(SPEECH_TAKE, REFERENCE, metric, part) for part in ("low", "margin"))
    return Bar(f"not_inferior_{metric}", what, value, at_least=limit)


def _told_apart(first: str, second: str) -> Value:
    def value(clips: ClipResults, _: StudentResult) -> float | None:
        found = (test for test in clips["two_sample"] if (test["first"], test["second"]) == (first, second))
        return next((test["accuracy"] for test in found), None)

    return value


def _diversity(clips: ClipResults, _: StudentResult) -> float | None:
    return None if clips["diversity"] is None else clips["diversity"]["mean"]


def _asked_emotion(clips: ClipResults, _: StudentResult) -> float | None:
    return None if clips["confusion"] is None else clips["confusion"]["share"]


def _mouth_lag(clips: ClipResults, _: StudentResult) -> float | None:
    lag = clips["rows"][SPEECH]["lags"].get("mouth")
    return None if lag is None else float(abs(lag))


def _accuracy(name: Literal["emotion_accuracy", "identity_accuracy"]) -> Value:
    def value(_: ClipResults, student: StudentResult) -> float | None:
        interval = student[name]
        return None if interval is None else interval["mean"]

    return value


def _probe(
    name: Literal["leak_emotion", "leak_identity"], part: Literal["accuracy", "chance"], plus: float = 0.0
) -> Value:
    def value(_: ClipResults, student: StudentResult) -> float | None:
        probe = student[name]
        return None if probe is None else probe[part] + plus

    return value


def _student(emotion: float, identity: float, leak: float) -> tuple[Bar, ...]:
    return (
        Bar("student_emotion", "emotion of the student, accuracy", _accuracy("emotion_accuracy"), _constant(emotion)),
        Bar(
            "student_identity",
            "identity of the student, accuracy: nearest teacher centroid",
            _accuracy("identity_accuracy"),
            _constant(identity),
        ),
        Bar(
            "leak_emotion",
            f"linear probe for emotion on the identity code; limit chance + {leak:.2f}",
            _probe("leak_emotion", "accuracy"),
            at_most=_probe("leak_emotion", "chance", leak),
        ),
        Bar(
            "leak_identity",
            f"linear probe for identity on the emotion code; limit chance + {leak:.2f}",
            _probe("leak_identity", "accuracy"),
            at_most=_probe("leak_identity", "chance", leak),
        ),
    )


NOT_INFERIOR = (
    _not_inferior("psnr", "PSNR"),
    _not_inferior("ssim", "SSIM"),
    _not_inferior("csim", "CSIM"),
    _not_inferior("landmark_distance", "landmark distance (sign turned)"),
)
C2ST = Bar(
    "c2st",
    "two-sample accuracy: speech only against the reference baseline with another take's still",
    _told_apart(SPEECH, REFERENCE_OTHER),
    at_most=_constant(0.60),
)
MOUTH_ERROR = Bar(
    "mouth_error",
    "L1 of the mouth, take given, against the still of the same take",
    _mean(SPEECH_TAKE, "error_mouth"),
    at_most=_mean(STILL, "error_mouth"),
)
ASKED_EMOTION = Bar(
    "asked_emotion",
    "share of clips that show the forced emotion, by the emotion judge",
    _asked_emotion,
    at_least=_constant(0.90),
)

VIDEO = (
    Bar(
        "csim",
        "CSIM of speech only, against another real take",
        _mean(SPEECH, "csim"),
        at_least=_mean(OTHER_TAKE, "csim"),
    ),
    Bar("cpbd", "CPBD of speech only, relative to real clips", _ratio("cpbd", SPEECH, REAL), at_least=_constant(0.9)),
    *(
        Bar(
            f"kid_{role}",
            f"KID of speech only ({role} judge), against 1.5 times that of real clips",
            _mean(SPEECH, f"kid_{role}"),
            at_most=_times(1.5, _mean(REAL, f"kid_{role}")),
        )
        for role in ("identity", "emotion")
    ),
    *NOT_INFERIOR,
    C2ST,
    MOUTH_ERROR,
    Bar(
        "aperture_correlation",
        "aperture of the mouth, generated and real: correlation",
        _mean(SPEECH, "aperture_correlation"),
        at_least=_constant(0.65),
    ),
    Bar(
        "movement",
        "movement of the mouth, relative to real clips",
        _mean(SPEECH, "movement_mouth"),
        at_least=_constant(0.75),
    ),
    Bar(
        "diversity",
        "variance over sampled takes, relative to that over real takes",
        _diversity,
        at_least=_constant(0.7),
        at_most=_constant(1.3),
    ),
    Bar(
        "variance",
        "variance within a clip outside the mouth, relative to real clips",
        _mean(SPEECH, "variance"),
        at_least=_constant(0.5),
        at_most=_constant(1.5),
    ),
    Bar(
        "blinks",
        "blink rate, relative to real clips",
        _ratio("blinks", SPEECH, REAL),
        at_least=_constant(0.5),
        at_most=_constant(1.5),
    ),
)

PUPPETS = (
    *_student(0.90, 0.90, 0.15),
    Bar(
        "mouth_correlation",
        "mouth opening, generated and true: correlation",
        _mean(SPEECH, "mouth_correlation"),
        at_least=_constant(0.90),
    ),
    Bar(
        "mouth_lag",
        "mouth opening, generated and true: |lag| of the mean, frames",
        _mouth_lag,
        at_most=_constant(0.0),
    ),
    C2ST,
    Bar("mottle", "mottle of flat areas, relative to real clips", _mean(SPEECH, "mottle"), at_most=_constant(1.2)),
    ASKED_EMOTION,
    MOUTH_ERROR,
    *NOT_INFERIOR,
)

SEEN_EMOTION = Bar(
    "seen_emotion",
    "share of clips in which the emotion judge sees the spoken emotion",
    _mean(SPEECH, "emotion"),
    at_least=_constant(0.65),
)

PROTOCOLS: dict[str, tuple[Bar, ...]] = {
    "puppets": PUPPETS,
    "video": VIDEO,
    "voices": (*_student(0.70, 0.95, 0.10), SEEN_EMOTION, C2ST, ASKED_EMOTION, MOUTH_ERROR),
    "voices_sentence": (*_student(0.60, 0.85, 0.10), C2ST, ASKED_EMOTION, MOUTH_ERROR),
}
"""Protocol -> its bars. The names are the values of ``evaluate.protocol``."""


def compare_with_bars(clips: ClipResults, student: StudentResult, protocol: str) -> list[BarResult]:
    """Compares the figures of an evaluation with the bars of a protocol."""
    found = []
    for bar in PROTOCOLS[protocol]:
        value = bar.value(clips, student)
        low, high = (limit(clips, student) if limit else None for limit in (bar.at_least, bar.at_most))
        applies = value is not None and (bar.at_least is None or low is not None)
        applies = applies and (bar.at_most is None or high is not None)
        met = None
        if applies and value is not None:
            met = (low is None or value >= low) and (high is None or value <= high)
        found.append(BarResult(key=bar.key, what=bar.what, value=value, at_least=low, at_most=high, met=met))
    return found
