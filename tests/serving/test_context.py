from __future__ import annotations

from pathlib import Path

import pytest

from s2v_ray.serving.bundles import LocalBundles
from s2v_ray.serving.context import ApiContext
from s2v_ray.serving.errors import ApiError
from s2v_ray.serving.service import Service
from s2v_ray.serving.settings import parse_settings
from s2v_ray.storage import ArtifactError
from tests.helpers.studies import make_small_study


def make_context(**settings: str) -> ApiContext:
    parsed = parse_settings({"bundle": "b", **settings})
    return ApiContext(Service(parsed, LocalBundles(parsed)))


def test_videos_and_study_are_optional() -> None:
    context = make_context()
    assert not context.has_videos and not context.has_study
    for name in ("videos", "study"):
        with pytest.raises(ApiError) as caught:
            getattr(context, name)
        assert caught.value.code == "not_found"


def test_videos_and_study_of_the_settings(tmp_path: Path) -> None:
    context = make_context(videos=str(tmp_path / "videos"), study=make_small_study(tmp_path / "study"))
    assert context.has_videos and context.has_study
    assert context.videos.held == {}
    assert len(context.study.plan.items) == 6


def test_a_missing_study_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError):
        make_context(study=str(tmp_path))
