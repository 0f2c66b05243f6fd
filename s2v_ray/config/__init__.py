"""A recipe: one YAML file that holds a run's whole config, read strictly into frozen models.

Each setting is declared in the section of its owner, with its type, default, range and description; the reference page
of all recipe keys is generated from these models. An unknown or ill-typed key is an error that names the key and the
most similar valid one. ``Recipe.digest`` covers the full resolved config including defaults, so that a changed default
changes the digest.
"""

from s2v_ray.config.base import ROLE_LABEL, Positive, RecipeError, Role, Section, Share, Weight, digest
from s2v_ray.config.data import IngestConfig, MediaConfig, PuppetsConfig
from s2v_ray.config.networks import GeneratorConfig, StudentConfig
from s2v_ray.config.recipe import (
    EvaluateConfig,
    Recipe,
    built_in_recipes,
    import_plugins,
    load_recipe,
    parse_recipe,
)
from s2v_ray.config.training import (
    AugmentConfig,
    DiscriminatorsConfig,
    DistillConfig,
    GanConfig,
    LatentConfig,
    LogConfig,
    ParallelConfig,
    ScheduleConfig,
    SyncConfig,
    TeachConfig,
    TeachersConfig,
)

__all__ = [
    "ROLE_LABEL",
    "AugmentConfig",
    "DiscriminatorsConfig",
    "DistillConfig",
    "EvaluateConfig",
    "GanConfig",
    "GeneratorConfig",
    "IngestConfig",
    "LatentConfig",
    "LogConfig",
    "MediaConfig",
    "ParallelConfig",
    "Positive",
    "PuppetsConfig",
    "Recipe",
    "RecipeError",
    "Role",
    "ScheduleConfig",
    "Section",
    "Share",
    "StudentConfig",
    "SyncConfig",
    "TeachConfig",
    "TeachersConfig",
    "Weight",
    "built_in_recipes",
    "digest",
    "import_plugins",
    "load_recipe",
    "parse_recipe",
]
