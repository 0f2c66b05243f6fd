"""The bars that the recipe ``puppets`` is held to. On other corpora they only give a scale."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from s2v_ray.evaluation.results import BarResult, ClipResults, StudentResult
from s2v_ray.evaluation.rows import REAL, REFERENCE, SPEECH, STILL

Value = Callable[[ClipResults, StudentResult], float | None]
"""Takes a figure from the results; None if it does not apply."""


@dataclass(frozen=True)
class Bar:
    """A figure and its bar.

    Attributes:
        key: name in ``results.json``.
        what: description.
        value: the figure.
        bar: its bar.
        at_least: whether the figure must be at least the bar; otherwise at most.
    """

    key: str
    what: str
    value: Value
    bar: Value
    at_least: bool = True


def _mean(row: str, metric: str) -> Value:
    def value(clips: ClipResults, _: StudentResult) -> float | None:
        interval = clips["rows"][row]["values"].get(metric)
        return None if interval is None else interval["mean"]

    return value


def _ratio(metric: str, row: str, base: str) -> Value:
    def value(clips: ClipResults, student: StudentResult) -> float | None:
        if clips["rows"][base]["note"]:
            return None  # another row is shown in its place, so a ratio to it would mean nothing
        a, b = _mean(row, metric)(clips, student), _mean(base, metric)(clips, student)
        return a / b if a is not None and b else None

    return value


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


def _leak(key: Literal["leak_emotion", "leak_identity"], what: str) -> Bar:
    return Bar(key, what, _probe(key, "accuracy"), _probe(key, "chance", plus=0.15), at_least=False)


def _mouth_lag(clips: ClipResults, _: StudentResult) -> float | None:
    lag = clips["rows"][SPEECH]["lags"].get("mouth")
    return None if lag is None else float(abs(lag))


def _contrast_share(clips: ClipResults, _: StudentResult) -> float | None:
    return clips["contrast"] and clips["contrast"]["share"]


def _constant(value: float) -> Value:
    return lambda _clips, _student: value


BARS = (
    Bar("student_emotion", "accuracy of the student's emotion", _accuracy("emotion_accuracy"), _constant(0.90)),
    Bar(
        "student_identity",
        "accuracy of the student's identity: nearest teacher centroid",
        _accuracy("identity_accuracy"),
        _constant(0.90),
    ),
    _leak("leak_emotion", "linear probe for emotion on the identity code"),
    _leak("leak_identity", "linear probe for identity on the emotion code"),
    Bar(
        "mouth_correlation",
        "mouth opening, generated and true: correlation",
        _mean(SPEECH, "mouth_correlation"),
        _constant(0.80),
    ),
    Bar("mouth_lag", "mouth opening, generated and true: |lag| of the mean, frames", _mouth_lag, _constant(0.0), False),
    Bar(
        "emotion_shown",
        "emotion by the judge, relative to real clips",
        _ratio("emotion", SPEECH, REAL),
        _constant(0.85),
    ),
    Bar("psnr_ratio", "PSNR relative to the reference baseline", _ratio("psnr", SPEECH, REFERENCE), _constant(0.95)),
    Bar("ssim_ratio", "SSIM relative to the reference baseline", _ratio("ssim", SPEECH, REFERENCE), _constant(0.95)),
    Bar(
        "mouth_error",
        "mouth-region error, compared with the still frame",
        _mean(SPEECH, "error_mouth"),
        _mean(STILL, "error_mouth"),
        False,
    ),
    Bar("emotion_contrast", "share of frames that differ visibly between emotions", _contrast_share, _constant(0.95)),
)


def compare_with_bars(clips: ClipResults, student: StudentResult) -> list[BarResult]:
    """Compares the figures of an evaluation with all bars."""
    found = []
    for bar in BARS:
        value, limit = bar.value(clips, student), bar.bar(clips, student)
        met = None
        if value is not None and limit is not None:
            met = value >= limit if bar.at_least else value <= limit
        found.append(BarResult(key=bar.key, what=bar.what, value=value, bar=limit, at_least=bar.at_least, met=met))
    return found
