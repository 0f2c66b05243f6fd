"""The bars that the recipe `puppets` is held to, and whether they were met. One table; on other corpora they only give a scale."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Results = dict[str, Any]


@dataclass(frozen=True)
class Bar:
    """A figure's name, what it is, how it is read off the results, its bar, and which side of it is right."""

    key: str
    what: str
    value: Callable[[Results], float | None]
    bar: Callable[[Results], float | None]
    at_least: bool = True


def _mean(row: str, metric: str) -> Callable[[Results], float | None]:
    return lambda r: r["rows"][row]["values"].get(metric, {}).get("mean")


def _ratio(metric: str, row: str, to: str) -> Callable[[Results], float | None]:
    def ratio(r: Results) -> float | None:
        if r["rows"][to]["note"]:
            return None  # another row stands in: a ratio to it would prove nothing
        a, b = _mean(row, metric)(r), _mean(to, metric)(r)
        return a / b if a is not None and b else None

    return ratio


def _student(name: str, part: str = "mean", plus: float = 0.0) -> Callable[[Results], float | None]:
    return lambda r: r["student"][name][part] + plus if r["student"][name] else None


def _leak(key: str, what: str) -> Bar:
    return Bar(key, what, _student(key, "accuracy"), _student(key, "chance", plus=0.15), at_least=False)


def _lag(r: Results) -> float | None:
    lag = r["rows"]["speech only"]["lags"].get("mouth")
    return None if lag is None else float(abs(lag))


def _constant(value: float) -> Callable[[Results], float | None]:
    return lambda r: value


BARS = (
    Bar(
        "student_emotion",
        "emotion heard by the student, against the truth",
        _student("emotion_accuracy"),
        _constant(0.90),
    ),
    Bar(
        "student_identity",
        "identity heard by the student: nearest teacher centroid",
        _student("identity_accuracy"),
        _constant(0.90),
    ),
    _leak("leak_emotion", "linear probe for emotion on the identity code"),
    _leak("leak_identity", "linear probe for identity on the emotion code"),
    Bar(
        "mouth_correlation",
        "mouth opening, generated against truth: correlation",
        _mean("speech only", "mouth_correlation"),
        _constant(0.80),
    ),
    Bar("mouth_lag", "mouth opening, generated against truth: |lag| of the mean, frames", _lag, _constant(0.0), False),
    Bar(
        "emotion_shown",
        "emotion shown, judged, relative to real clips",
        _ratio("emotion", "speech only", "real clips"),
        _constant(0.85),
    ),
    Bar(
        "psnr_ratio",
        "PSNR relative to the reference baseline",
        _ratio("psnr", "speech only", "reference baseline"),
        _constant(0.95),
    ),
    Bar(
        "ssim_ratio",
        "SSIM relative to the reference baseline",
        _ratio("ssim", "speech only", "reference baseline"),
        _constant(0.95),
    ),
    Bar(
        "mouth_error",
        "mouth-region error, against the still frame's",
        _mean("speech only", "error_mouth"),
        _mean("still frame", "error_mouth"),
        False,
    ),
    Bar(
        "emotion_contrast",
        "share of frames that differ visibly between emotions",
        lambda r: r["contrast"] and r["contrast"]["share"],
        _constant(0.95),
    ),
)


def bars(results: Results) -> list[dict[str, Any]]:
    """``key``, ``what``, ``value``, ``bar``, ``at_least`` (else at most) and ``met`` of each; ``met`` is None where there is no value."""
    found = []
    for bar in BARS:
        value, limit = bar.value(results), bar.bar(results)
        met = None if value is None or limit is None else (value >= limit if bar.at_least else value <= limit)
        found.append(
            {"key": bar.key, "what": bar.what, "value": value, "bar": limit, "at_least": bar.at_least, "met": met}
        )
    return found
