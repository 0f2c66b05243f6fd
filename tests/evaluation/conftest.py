"""A corpus for the tests of evaluation."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.evaluated import make_clip, make_clips, write_corpus


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    return write_corpus(tmp_path / "corpus", make_clips(24), [make_clip(100 + n, n % 2, n % 3) for n in range(12)])
