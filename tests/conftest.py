"""What every test gets: one compute thread, quiet Ray, and nothing from the developer's own cloud or cluster."""

from __future__ import annotations

import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two cores: more threads only fight
os.environ.setdefault("DS_ACCELERATOR", "cpu")  # where a GPU is present, the tests marked gpu choose it themselves
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "180")  # a busy machine starts workers slowly
os.environ.pop("RAY_ADDRESS", None)  # never join a cluster that happens to run here


@pytest.fixture(autouse=True)
def _no_foreign_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tracing flag of the shell must not change what a test sees."""
    monkeypatch.delenv("S2V_DEBUG", raising=False)
