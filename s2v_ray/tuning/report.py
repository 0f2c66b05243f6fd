"""The report of a sweep as one HTML file: table, plots, changes of a population, and video of the best trials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import jinja2
import numpy as np

from s2v_ray import storage
from s2v_ray.evaluation import plots
from s2v_ray.evaluation.player import PlayedClip, label_of, player
from s2v_ray.evaluation.sample import read_sample
from s2v_ray.inference.predictor import Predictor
from s2v_ray.inference.request import GenerationRequest
from s2v_ray.metrics import VALIDATION
from s2v_ray.tuning.parameters import Choice, LogUniform, Params
from s2v_ray.tuning.search import make_study
from s2v_ray.tuning.space import better
from s2v_ray.tuning.trials import Segment, Sweep, Trial, finished, summary
from s2v_ray.tuning.winner import mean_ranks

SHOWN_TRIALS = 3
"""Trials whose videos are shown."""
SHOWN_CLIPS = 2
MIN_TRIALS = 5
"""Smallest number of trials for importances."""


def write_report(sweep: Sweep) -> dict[str, str]:
    """Write SWEEP/report.html, self-contained; of a running sweep, its state so far.

    Returns:
        ``report``: its URI.

    Raises:
        ArtifactError: there is no trial yet.
    """
    trials = sweep.trials()
    if not trials:
        raise storage.ArtifactError(f"the sweep {sweep.uri} has no trial yet")
    uri = storage.join(sweep.uri, "report.html")
    storage.write_bytes(uri, _page(sweep, trials).encode())
    return {"report": uri}


def format_table(sweep: Sweep) -> str:
    """Format the trials as a table for the terminal: state, steps, metrics, values."""
    trials = sweep.trials()
    figures = _figures(sweep, trials)
    lines = [["trial", "state", "steps", *(f"{m} {VALIDATION[m].arrow}" for m in figures), "values"]]
    result = summary(sweep, trials)
    for trial in trials:
        mark = "*" if trial.number == result["winner"] else "+" if trial.number in result["pareto"] else ""
        scores = [f"{trial.scores()[m]:.{VALIDATION[m].digits}f}" if m in trial.scores() else "-" for m in figures]
        values = " ".join(
            f"{k.removeprefix('gan.').removeprefix('discriminators.')}={_shown(v)}"
            for k, v in _params(sweep, trial).items()
        )
        lines.append([f"{trial.number}{mark}", trial.state, str(trial.steps()), *scores, values])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]) - 1)]
    text = ["  ".join([*(c.rjust(w) for c, w in zip(line[:-1], widths, strict=True)), line[-1]]) for line in lines]
    return "\n".join([*text, "* the winner, + in the Pareto set" if result["pareto"] else "no trial has finished"])


@dataclass(frozen=True)
class Exploit:
    """A run that started from another trial's checkpoint, in population based training.

    Attributes:
        trial: the trial.
        left: step at which it gave up its own run.
        before: primary metric there.
        parent: the other trial.
        step: step of the other trial's checkpoint.
        parent_value: primary metric there.
        changed: key, value of the other trial, new value.
        until: step at the end of the new run, or None.
        after: primary metric there, or None.
    """

    trial: int
    left: int
    before: float
    parent: int
    step: int
    parent_value: float
    changed: list[tuple[str, Any, Any]]
    until: int | None
    after: float | None


def exploits(sweep: Sweep, trials: Sequence[Trial]) -> list[Exploit]:
    """Return what a population changed in running trials."""
    by_number = {t.number: t for t in trials}
    return [
        _exploit(sweep, by_number, trial, index, segment)
        for trial in trials
        for index, segment in enumerate(sweep.segments(trial.number))
        if segment.parent is not None
    ]


def _exploit(sweep: Sweep, by_number: dict[int, Trial], trial: Trial, index: int, segment: Segment) -> Exploit:
    metric, parent = sweep.space.primary_metric, segment.parent
    assert parent is not None, "only runs with a parent are exploits"
    earlier = [p for p in trial.curve if p["segment"] == index - 1]
    own = [p for p in trial.curve if p["segment"] == index]
    origin = [p for p in by_number[parent].curve if p["step"] == segment.step]
    theirs = _params_at(sweep, parent, segment.begin_from)
    return Exploit(
        trial=trial.number,
        left=earlier[-1]["step"] if earlier else 0,
        before=earlier[-1][metric] if earlier else float("nan"),
        parent=parent,
        step=segment.step,
        parent_value=origin[-1][metric] if origin else float("nan"),
        changed=[(k, theirs.get(k), v) for k, v in segment.params.items() if theirs.get(k) != v],
        until=own[-1]["step"] if own else None,
        after=own[-1][metric] if own else None,
    )


def _params(sweep: Sweep, trial: Trial) -> Params:
    """Return the values that a trial ended with."""
    segments = sweep.segments(trial.number)
    return segments[-1].params if segments else trial.params


def _params_at(sweep: Sweep, number: int, checkpoint: str) -> Params:
    """Return the values of the run that wrote ``checkpoint``."""
    return next(s.params for s in sweep.segments(number) if checkpoint.startswith(sweep.run_of(number, s) + "/"))


def _figures(sweep: Sweep, trials: Sequence[Trial]) -> list[str]:
    seen = {m for t in trials for m in t.scores()}
    first = [m for m in dict.fromkeys((*sweep.space.objectives, sweep.space.primary_metric)) if m in seen]
    return first + [m for m in VALIDATION if m in seen and m not in first]


def _page(sweep: Sweep, trials: list[Trial]) -> str:
    source = resources.files("s2v_ray.tuning") / "templates" / "sweep.html"
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    figures = _figures(sweep, trials)
    return environment.from_string(source.read_text()).render(
        sweep=sweep,
        result=summary(sweep, trials),
        metrics=VALIDATION,
        figures=figures,
        keys=list(sweep.space.parameters),
        rows=[{"trial": t, "scores": t.scores(), "params": _params(sweep, t)} for t in trials],
        exploits=exploits(sweep, trials),
        metric=sweep.space.primary_metric,
        curves=[
            _curves(sweep, trials, m)
            for m in dict.fromkeys((sweep.space.primary_metric, *sweep.space.objectives))
            if m in figures
        ],
        parallel=_parallel(sweep, trials),
        importance=_importance(sweep, trials),
        pareto=_pareto(sweep, trials),
        player=player(_played(sweep, trials)),
        shown=_shown,
    )


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _curves(sweep: Sweep, trials: Sequence[Trial], metric: str) -> str:
    """Plot one line for each run, with a dotted line from the checkpoint of another trial that it started from."""
    best = summary(sweep, trials)["winner"]
    figure, axes = plots.figure(9, 3)
    labels: list[tuple[float, float, str, str]] = []
    for trial in trials:
        style = (
            {"color": "#c60", "linewidth": 2.2, "zorder": 3}
            if trial.number == best
            else {"color": f"C{trial.number % 10}", "linewidth": 1, "alpha": 0.7}
        )
        for index, segment in enumerate(sweep.segments(trial.number)):
            points = [(p["step"], p[metric]) for p in trial.curve if p["segment"] == index and metric in p]
            if not points:
                continue
            x, y = zip(*points, strict=True)
            axes.plot(x, y, marker=".", **style)
            labels.append((x[-1], y[-1], str(trial.number), str(style["color"])))
            origin = [
                p[metric]
                for t in trials
                if t.number == segment.parent
                for p in t.curve
                if p["step"] == segment.step and metric in p
            ]
            if origin:
                axes.plot((segment.step, x[0]), (origin[-1], y[0]), linestyle=":", **style)
    axes.set_xlabel("step")
    axes.set_ylabel(f"{VALIDATION[metric].name} ({better(metric)} is better)")
    plots.label_points(figure, axes, labels)
    return plots.svg(figure)


def _parallel(sweep: Sweep, trials: Sequence[Trial]) -> str:
    """Plot a line for each trial through its values, darker if its primary metric is better."""
    metric, keys = sweep.space.primary_metric, list(sweep.space.parameters)
    shown = [(t, _params(sweep, t)) for t in trials if metric in t.scores()]
    figure, axes = plots.figure(max(8.0, 1.3 * len(keys)), 3.6)
    if not shown:
        return plots.svg(figure)
    from matplotlib import colormaps

    columns = [*keys, metric]
    order = np.argsort(np.argsort([t.scores()[metric] * (1 if better(metric) == "lower" else -1) for t, _ in shown]))
    low_high = [_bounds(sweep, k) for k in keys]
    values = [t.scores()[metric] for t, _ in shown]
    low_high.append((min(values), max(values)))
    for rank, (trial, params) in zip(order, shown, strict=True):
        heights = [*(_height(sweep, k, params.get(k), bounds) for k, bounds in zip(keys, low_high, strict=False))]
        heights.append((trial.scores()[metric] - low_high[-1][0]) / ((low_high[-1][1] - low_high[-1][0]) or 1.0))
        shade = 1.0 - 0.8 * rank / max(1, len(shown) - 1)
        axes.plot(
            range(len(columns)),
            heights,
            marker=".",
            linewidth=0.6 + 1.4 * shade,
            color=colormaps["viridis_r"](shade),
            alpha=0.4 + 0.6 * shade,
        )
    axes.set_xticks(
        range(len(columns)),
        [c.removeprefix("gan.").removeprefix("discriminators.").replace(".", ".\n") for c in columns],
    )
    axes.set_yticks([])
    axes.set_ylim(-0.12, 1.12)
    axes.spines[:].set_visible(False)
    for i, (low, high) in enumerate(low_high):
        axes.plot((i, i), (0, 1), color="#ccc", linewidth=0.8, zorder=0)
        for height, value in ((-0.08, low), (1.04, high)):
            axes.text(i, height, _shown(value), ha="center", fontsize=7)
    return plots.svg(figure)


def _bounds(sweep: Sweep, key: str) -> tuple[Any, Any]:
    parameter = sweep.space.parameters[key]
    return (
        (parameter.values[0], parameter.values[-1]) if isinstance(parameter, Choice) else parameter.bounds(sweep.recipe)
    )


def _height(sweep: Sweep, key: str, value: Any, bounds: tuple[Any, Any]) -> float:
    """Return the position of a value between its bounds, in [0, 1]; NaN, a gap in the line, if it was not drawn."""
    parameter = sweep.space.parameters[key]
    if value is None:
        return float("nan")
    if isinstance(parameter, Choice):
        return [str(v) for v in parameter.values].index(str(value)) / (len(parameter.values) - 1)
    low, high, at = np.log([*bounds, value]) if isinstance(parameter, LogUniform) else (*bounds, value)
    return float((at - low) / (high - low))


def _importance(sweep: Sweep, trials: Sequence[Trial]) -> str:
    """Plot fANOVA's importances (Hutter et al. 2014); "" if there are too few trials, or all are equal."""
    import optuna

    metric = sweep.space.primary_metric
    values = {
        t.number: t.scores()[metric] for t in trials if t.state in ("finished", "stopped") and metric in t.scores()
    }
    if len(values) < MIN_TRIALS or len(set(values.values())) == 1:
        return ""
    kept = [t for t in trials if t.number in values]
    study = make_study(sweep.space, sweep.recipe, kept)
    scores = [values[t.number] for t in kept]
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    found = optuna.importance.get_param_importances(study, evaluator=evaluator, target=lambda t: scores[t.number])
    if not found:
        return ""
    figure, axes = plots.figure(8, 0.6 + 0.25 * len(found))
    axes.barh(list(found)[::-1], list(found.values())[::-1], color="#2563a8")
    return plots.svg(figure)


def _played(sweep: Sweep, trials: Sequence[Trial]) -> list[PlayedClip]:
    """Return clips of the validation split: real, and drawn from their speech by the best trials."""
    scores = finished(sweep.space, trials)
    if sweep.space.task != "gan" or not scores:
        return []
    best = summary(sweep, trials)["winner"]
    weights = getattr(sweep.space.winner, "weights", {})
    means = mean_ranks(scores, sweep.space.objectives, weights)
    chosen = sorted(scores, key=lambda n: (n != best, means[n], n))[:SHOWN_TRIALS]
    runs = {n: sweep.run_of(n, sweep.segments(n)[-1]) for n in chosen}
    predictors = {f"trial {n}": Predictor(storage.join(run, "bundle")) for n, run in runs.items()}
    shown = []
    for clip in read_sample(sweep.corpus, "val", SHOWN_CLIPS, seed=0):
        rows = {"real": clip.frames}
        for label, predictor in predictors.items():
            rows[label] = np.concatenate([*predictor.generate(GenerationRequest(clip.speech))])
        shown.append(PlayedClip(label_of(clip.speaker, clip.emotion, clip.sentence), rows, clip.speech))
    return shown


def _pareto(sweep: Sweep, trials: Sequence[Trial]) -> str:
    """Plot the finished trials by the first two objectives, and their Pareto front; "" with one objective."""
    objectives = list(sweep.space.objectives)[:2]
    scores, result = finished(sweep.space, trials), summary(sweep, trials)
    if len(objectives) < 2 or not scores:
        return ""
    figure, axes = plots.figure(6, 4)
    x, y = ([found[m] for found in scores.values()] for m in objectives)
    axes.scatter(x, y, color="#999", s=18)
    if len(sweep.space.objectives) == 2:
        front = sorted((scores[n][objectives[0]], scores[n][objectives[1]]) for n in result["pareto"])
        axes.plot(*zip(*front, strict=True), color=plots.INK, marker="o", linewidth=1)
    for label, metric in zip((axes.set_xlabel, axes.set_ylabel), objectives, strict=True):
        label(f"{VALIDATION[metric].name} ({better(metric)} is better)")
    colors = {number: "#c60" if number == result["winner"] else "#333" for number in scores}
    points = zip(x, y, scores, strict=True)
    plots.label_points(figure, axes, [(px, py, str(number), colors[number]) for px, py, number in points])
    return plots.svg(figure)
