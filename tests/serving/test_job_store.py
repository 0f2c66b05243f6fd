"""Requests and states of jobs are read as they were written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from s2v_ray import storage
from s2v_ray.inference.request import GenerationRequest
from s2v_ray.serving.job_store import JobError, JobState, JobStore
from s2v_ray.serving.service import VideoRequest
from tests.helpers.sounds import speech

JOB = "0123456789abcdef" * 2


def make_state(error: JobError | None = None) -> JobState:
    return JobState(JOB, "queued", 0.25, 25, 1000.0, 1001.0, error, "owner", 5000.0)


@pytest.fixture
def store(tmp_path: Path) -> JobStore:
    return JobStore(str(tmp_path))


@pytest.mark.parametrize("error", [None, JobError("internal", "an error")])
def test_a_state_is_read_as_written(store: JobStore, error: JobError | None) -> None:
    store.write_state(make_state(error))
    assert store.read_state(JOB) == make_state(error)
    assert storage.read_json(f"{store.uri}/{JOB}/state.json").keys() == {
        "id",
        "state",
        "progress",
        "frames",
        "created",
        "updated",
        "error",
        "owner",
        "expires",
    }
    assert store.list_jobs() == [JOB]


@pytest.mark.parametrize("emotion", [None, "happy", torch.tensor([0.5, -0.25])])
def test_a_request_is_read_as_written(store: JobStore, emotion: str | torch.Tensor | None) -> None:
    still = np.random.default_rng(0).integers(0, 255, (8, 8, 3)).astype(np.uint8)
    generation = GenerationRequest(
        speech(0.5), torch.tensor([1.0, 2.0]), emotion, still, take=255 - still, seed=2**62 + 1
    )
    store.write_request(JOB, VideoRequest(generation, "other", size=64))
    found = store.read_request(JOB)
    assert (found.model, found.size, found.frames) == ("other", 64, 13)
    np.testing.assert_allclose(found.generation.speech, generation.speech, atol=1 / 32768)
    assert torch.equal(found.generation.identity, generation.identity)
    assert np.array_equal(found.generation.still, still) and np.array_equal(found.generation.take, 255 - still)
    assert found.generation.seed == 2**62 + 1
    if isinstance(emotion, torch.Tensor):
        assert torch.equal(found.generation.emotion, emotion)
    else:
        assert found.generation.emotion == emotion


def test_names_of_clients_are_not_paths(store: JobStore) -> None:
    for name in ("..", "../x", "", "x" * 500, JOB.upper()):
        with pytest.raises(FileNotFoundError):
            store.read_state(name)


def test_cancellation_video_and_removal(store: JobStore, tmp_path: Path) -> None:
    store.write_state(make_state())
    assert not store.is_cancelled(JOB)
    store.request_cancellation(JOB)
    assert store.is_cancelled(JOB)
    (tmp_path / "local.mp4").write_bytes(b"video")
    store.write_video(JOB, tmp_path / "local.mp4")
    assert store.read_video(JOB) == b"video"
    assert store.video_url(JOB) is None, "local files have no presigned URL"
    store.remove(JOB)
    assert store.list_jobs() == []


def test_open_states() -> None:
    phases = ("queued", "running", "done", "failed", "cancelled")
    states = [JobState(JOB, phase, 0.0, 1, 0.0, 0.0, None, "", 0.0) for phase in phases]
    assert [state.state for state in states if state.open] == ["queued", "running"]
