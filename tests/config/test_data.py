"""Sections about data."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from s2v_ray.config import IngestConfig


@pytest.mark.parametrize("changes", [{"offset": "speaker"}, {"offsets": "s3://bucket/offsets"}])
def test_an_offset_and_its_file_go_together(changes: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="ingest.offset .* and ingest.offsets .* go together"):
        IngestConfig.model_validate(changes)
    assert IngestConfig(offset="speaker", offsets="s3://bucket/offsets").offset == "speaker"


def test_any_source_name_is_accepted_because_plugins_add_some() -> None:
    assert IngestConfig(source="my_data").source == "my_data"
