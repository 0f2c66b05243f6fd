"""Searchers: which values the next trial gets, a function of the space and of the trials so far.

``searchers.SEARCHERS`` is the table of all; importing this module adds those that come with the package.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from s2v_ray.config import Recipe
from s2v_ray.tuning.parameters import Choice, Int, LogUniform, Params
from s2v_ray.tuning.searchers import SEARCHERS, register_searcher
from s2v_ray.tuning.space import Space, better, draw
from s2v_ray.tuning.trials import Trial

if TYPE_CHECKING:
    import optuna

STARTUP_TRIALS = 8
"""Random trials before TPE fits a model (Optuna's default is 10)."""


def suggest(space: Space, recipe: Recipe, trials: Sequence[Trial], number: int) -> Params:
    """Return the values of trial ``number`` by the space's searcher."""
    return SEARCHERS[space.searcher](space, recipe, trials, number)


@register_searcher("random")
def search_randomly(
    space: Space,
    recipe: Recipe,
    trials: Sequence[Trial],  # noqa: ARG001  # random search does not depend on earlier trials
    number: int,
) -> Params:
    """Draw independent random values."""
    return draw(space, recipe, number)


@register_searcher("tpe")
def search_by_tpe(space: Space, recipe: Recipe, trials: Sequence[Trial], number: int) -> Params:
    """Ask Optuna's multivariate tree of Parzen estimators."""
    optuna_trial = make_study(space, recipe, trials, number).ask()
    params: Params = {}
    for key, parameter in space.parameters.items():
        if parameter.is_active(params):
            params[key] = _suggest(optuna_trial, key, parameter, recipe)
    return params


def make_study(space: Space, recipe: Recipe, trials: Sequence[Trial], seed: int = 0) -> optuna.Study:
    """Build an Optuna study of the trials with the values of all objectives."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler_seed = zlib.crc32(f"{space.seed}-{seed}".encode())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # about "multivariate"
        sampler = optuna.samplers.TPESampler(
            multivariate=True, group=True, constant_liar=True, n_startup_trials=STARTUP_TRIALS, seed=sampler_seed
        )
    direction = optuna.study.StudyDirection
    directions = [direction.MINIMIZE if better(m) == "lower" else direction.MAXIMIZE for m in space.objectives]
    study = optuna.create_study(directions=directions, sampler=sampler)
    for trial in trials:
        study.add_trial(_frozen(space, recipe, trial))
    return study


def _frozen(space: Space, recipe: Recipe, trial: Trial) -> optuna.trial.FrozenTrial:
    import optuna

    states = optuna.trial.TrialState
    params = {k: _encoded(space.parameters[k], v) for k, v in trial.params.items()}
    distributions = {k: _distribution(space.parameters[k], recipe) for k in params}
    scores = trial.scores()
    if trial.state in ("finished", "stopped") and all(m in scores for m in space.objectives):
        values = [scores[m] for m in space.objectives]
        return optuna.trial.create_trial(
            state=states.COMPLETE, values=values, params=params, distributions=distributions
        )
    state = states.RUNNING if trial.state == "running" else states.FAIL
    return optuna.trial.create_trial(state=state, params=params, distributions=distributions)


def _distribution(parameter: Any, recipe: Recipe) -> optuna.distributions.BaseDistribution:
    import optuna

    if isinstance(parameter, Choice):  # by index, because Optuna stores scalars only
        return optuna.distributions.CategoricalDistribution(tuple(range(len(parameter.values))))
    if isinstance(parameter, Int):
        return optuna.distributions.IntDistribution(*parameter.bounds(recipe))
    low, high = parameter.bounds(recipe)
    return optuna.distributions.FloatDistribution(low, high, log=isinstance(parameter, LogUniform))


def _suggest(trial: optuna.Trial, key: str, parameter: Any, recipe: Recipe) -> Any:
    if isinstance(parameter, Choice):
        return parameter.values[trial.suggest_categorical(key, range(len(parameter.values)))]
    low, high = parameter.bounds(recipe)
    if isinstance(parameter, Int):
        return trial.suggest_int(key, int(low), int(high))
    return trial.suggest_float(key, low, high, log=isinstance(parameter, LogUniform))


def _encoded(parameter: Any, value: Any) -> Any:
    return parameter.index_of(value) if isinstance(parameter, Choice) else value
