"""A searcher from outside the package."""

from s2v_ray.tuning.searchers import register_searcher


@register_searcher("sweep_up")
def sweep_up(space, recipe, trials, number):
    """Values at equal distances from low to high."""
    found = {}
    for key, parameter in space.parameters.items():
        low, high = parameter.bounds(recipe)
        found[key] = low + (high - low) * number / (space.trials - 1)
    return found
