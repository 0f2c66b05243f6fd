"""Sections about data."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from s2v_ray.config import IngestConfig


@pytest.mark.parametrize("changes", [{"offset": "speaker"}, {"offsets": "s3://bucket/offsets"}, {"min_sync": 0.3}])
def test_an_offset_and_its_file_go_together(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="ingest.offset .* and ingest.offsets .* go together"):
        IngestConfig.model_validate(changes)
    assert IngestConfig(offset="speaker", offsets="s3://bucket/offsets").offset == "speaker"
    assert IngestConfig(min_sync=0.3, offsets="s3://bucket/offsets").offset == "none"


def test_the_pose_needs_a_detector_with_a_nose() -> None:
    with pytest.raises(ValidationError, match="max_turn needs the landmarks of nose and mouth"):
        IngestConfig(max_turn=30.0)
    assert IngestConfig(max_turn=30.0, detector="yunet.onnx").max_turn == 30.0


def test_any_source_name_is_accepted_because_plugins_add_some() -> None:
    assert IngestConfig(source="my_data").source == "my_data"
