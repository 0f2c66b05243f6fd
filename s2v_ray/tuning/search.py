"""Which values to try next: a function of the space and of what the trials so far have shown. So it needs no state that a kill could lose."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from s2v_ray.config import Recipe
from s2v_ray.tuning.space import Choice, Int, LogUniform, Params, Space, better, draw
from s2v_ray.tuning.trials import Trial

if TYPE_CHECKING:
    import optuna

STARTUP = 8
"""Random trials before TPE models anything (Optuna's own default is 10)."""


def suggest(space: Space, recipe: Recipe, trials: Sequence[Trial], number: int) -> Params:
    """Values for trial ``number``; the same ones for the same trials before it."""
    if space.searcher == "random":
        return draw(space, recipe, number)
    study = make_study(space, recipe, trials, number)
    asked = study.ask()
    params: Params = {}
    for key, parameter in space.parameters.items():
        if parameter.is_active(params):
            params[key] = _ask(asked, key, parameter, recipe)
    return params


def make_study(space: Space, recipe: Recipe, trials: Sequence[Trial], seed: int = 0) -> optuna.Study:
    """Optuna's view of the trials: values of all objectives, as far as each trial came. One that runs still, or failed, counts as running or failed."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    own_seed = zlib.crc32(f"{space.seed}-{seed}".encode())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # said of multivariate since 2020
        sampler = optuna.samplers.TPESampler(
            multivariate=True, group=True, constant_liar=True, n_startup_trials=STARTUP, seed=own_seed
        )
    directions = [
        optuna.study.StudyDirection.MINIMIZE if better(m) == "lower" else optuna.study.StudyDirection.MAXIMIZE
        for m in space.objectives
    ]
    study = optuna.create_study(directions=directions, sampler=sampler)
    states = optuna.trial.TrialState
    for trial in trials:
        params = {k: _index(space.parameters[k], v) for k, v in trial.params.items()}
        told: dict[str, Any] = {
            "params": params,
            "distributions": {k: _distribution(space.parameters[k], recipe) for k in params},
        }
        scores = trial.scores()
        if trial.state in ("finished", "stopped") and all(m in scores for m in space.objectives):
            study.add_trial(
                optuna.trial.create_trial(state=states.COMPLETE, values=[scores[m] for m in space.objectives], **told)
            )
        else:
            study.add_trial(
                optuna.trial.create_trial(state=states.RUNNING if trial.state == "running" else states.FAIL, **told)
            )
    return study


def _distribution(parameter: Any, recipe: Recipe) -> optuna.distributions.BaseDistribution:
    import optuna

    if isinstance(parameter, Choice):  # by index: Optuna stores scalars alone
        return optuna.distributions.CategoricalDistribution(tuple(range(len(parameter.values))))
    if isinstance(parameter, Int):
        return optuna.distributions.IntDistribution(*parameter.bounds(recipe))
    low, high = parameter.bounds(recipe)
    return optuna.distributions.FloatDistribution(low, high, log=isinstance(parameter, LogUniform))


def _ask(asked: optuna.Trial, key: str, parameter: Any, recipe: Recipe) -> Any:
    if isinstance(parameter, Choice):
        return parameter.values[asked.suggest_categorical(key, range(len(parameter.values)))]
    low, high = parameter.bounds(recipe)
    return (
        asked.suggest_int(key, low, high)
        if isinstance(parameter, Int)
        else asked.suggest_float(key, low, high, log=isinstance(parameter, LogUniform))
    )


def _index(parameter: Any, value: Any) -> Any:
    return (
        parameter.values.index(tuple(value) if isinstance(value, list) else value)
        if isinstance(parameter, Choice)
        else value
    )
