"""A user study whose clips are not videos but their names."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from s2v_ray import storage
from s2v_ray.evaluation.user_study import CONDITIONS, DEGRADED, STUDY_SCHEMA, StudyItem, StudyPlan, clip_uri


def make_small_study(folder: Path) -> str:
    """Writes a study of six items in all conditions: nine pairs, six single clips, two checks; returns its URI."""
    uri = str(folder)
    items = []
    for n in range(6):
        clips = {condition: f"{n}{k}.mp4" for k, condition in enumerate((*CONDITIONS, DEGRADED))}
        items.append(StudyItem(f"c{n}", "s", ("happy", "sad")[n % 2], clips))
        for name in clips.values():
            storage.write_bytes(clip_uri(uri, name), name.encode())
    plan = StudyPlan(seed=1, pairs=9, singles=6, checks=2, emotions=("happy", "sad"), items=tuple(items))
    storage.write_manifest(uri, "study", STUDY_SCHEMA, config_digest="", parents={}, **asdict(plan))
    return uri
