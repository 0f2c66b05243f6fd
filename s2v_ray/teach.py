"""`s2v teach`: everything that training needs to know about a corpus beyond its clips."""

from __future__ import annotations

from typing import Any

from s2v_ray.config import Recipe

ROLES = ("identity", "emotion")


def teach_corpus(corpus: str, recipe: Recipe) -> dict[str, Any]:
    """Train the networks of a corpus (``training.teach``) and store the teachers' outputs for every clip.

    Returns:
        the result of ``training.teach.teach``, and ``annotations`` by role of the teacher.
    """
    from s2v_ray.ingest.ray_pipeline import annotate
    from s2v_ray.training.teach import teach

    result = teach(corpus, recipe)
    result["annotations"] = {role: annotate(corpus, role) for role in ROLES}
    return result
