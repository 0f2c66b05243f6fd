"""Requests and states of videos are read as they were written."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from s2v_ray import storage
from s2v_ray.inference.request import GenerationRequest
from s2v_ray.serving.service import VideoRequest
from s2v_ray.serving.video_store import (
    ID_PATTERN,
    VideoError,
    VideoIndex,
    VideoState,
    VideoStatus,
    VideoStore,
    hour_of,
    make_id,
)
from tests.helpers.sounds import speech

VIDEO = "video_" + "0123456789abcdef" * 2


def make_state(error: VideoError | None = None) -> VideoState:
    return VideoState(
        id=VIDEO,
        status="in_progress",
        progress=25,
        model="default",
        prompt="a greeting",
        frames=25,
        size=64,
        created_at=1000.0,
        updated_at=1001.0,
        completed_at=None,
        expires_at=5000.0,
        error=error,
        owner="owner",
    )


@pytest.fixture
def store(tmp_path: Path) -> VideoStore:
    return VideoStore(str(tmp_path / "videos"))


@pytest.mark.parametrize("error", [None, VideoError("internal", "an error")])
def test_a_state_is_read_as_written(store: VideoStore, error: VideoError | None) -> None:
    store.write_state(make_state(error))
    assert store.read_state(VIDEO) == make_state(error)


@pytest.mark.parametrize("emotion", [None, "happy", torch.tensor([0.5, -0.25])])
def test_a_request_is_read_as_written(store: VideoStore, emotion: str | torch.Tensor | None) -> None:
    still = np.random.default_rng(0).integers(0, 255, (8, 8, 3)).astype(np.uint8)
    generation = GenerationRequest(
        speech(0.5), torch.tensor([1.0, 2.0]), emotion, still, take=255 - still, seed=2**62 + 1
    )
    store.write_request(VIDEO, VideoRequest(generation, "other", size=64))
    found = store.read_request(VIDEO)
    assert (found.model, found.size, found.frames) == ("other", 64, 13)
    np.testing.assert_allclose(found.generation.speech, generation.speech, atol=1 / 32768)
    assert torch.equal(found.generation.identity, generation.identity)
    assert np.array_equal(found.generation.still, still) and np.array_equal(found.generation.take, 255 - still)
    assert found.generation.seed == 2**62 + 1
    if isinstance(emotion, torch.Tensor):
        assert torch.equal(found.generation.emotion, emotion)
    else:
        assert found.generation.emotion == emotion


def test_names_of_clients_are_not_paths(store: VideoStore) -> None:
    for name in ("..", "../x", "", "x" * 500, VIDEO.upper(), VIDEO + "\n", VIDEO[6:]):
        with pytest.raises(FileNotFoundError):
            store.read_state(name)


def test_deletion_content_and_removal(store: VideoStore, tmp_path: Path) -> None:
    store.write_request(VIDEO, VideoRequest(GenerationRequest(speech(0.2)), "default", size=64))
    store.write_state(make_state())
    store.mark_open(VIDEO)
    hour = hour_of(VIDEO)
    assert store.read_index() == VideoIndex({VIDEO}, set(), [hour])
    assert not store.is_deleted(VIDEO)
    store.mark_deleted(VIDEO)
    assert store.is_deleted(VIDEO)
    assert store.read_index() == VideoIndex({VIDEO}, {VIDEO}, [hour])
    store.write_state(replace(make_state(), status="completed"))
    assert store.read_index() == VideoIndex(set(), {VIDEO}, [hour]), "a completed video is not open"
    (tmp_path / "local.mp4").write_bytes(b"video")
    store.write_content(VIDEO, tmp_path / "local.mp4")
    assert store.read_content(VIDEO) == b"video"
    assert store.content_url(VIDEO) is None, "local files have no presigned URL"
    assert store.videos_of(hour) == [VIDEO]
    store.remove(VIDEO)
    assert store.read_index() in (VideoIndex(), VideoIndex(hours=[hour])), "a local disk keeps empty folders"
    assert store.videos_of(hour) == [] and not storage.list_files(str(tmp_path / "videos"))


def test_pages_of_videos(store: VideoStore) -> None:
    times = [1000.0 * n for n in range(10)]  # 0 to 2.5 hours
    videos = [make_id(time) for time in times]
    for video in videos:
        store.write_request(video, VideoRequest(GenerationRequest(speech(0.2)), "default", size=64))
    assert store.read_index().hours == [0, 1, 2]
    store.mark_deleted(videos[4])
    shown = [v for v in videos if v != videos[4]]
    assert store.page(None, 100, newest_first=False) == shown
    assert store.page(None, 3, newest_first=True) == shown[:-4:-1]
    assert store.page(videos[2], 3, newest_first=False) == [videos[3], *videos[5:7]]
    assert store.page(videos[5], 3, newest_first=True) == [videos[3], videos[2], videos[1]]
    assert store.page("../x", 100, newest_first=False) == shown


def test_the_index_is_read_in_one_request_however_many_videos_are_completed(bucket: str) -> None:
    store, requests = VideoStore(f"{bucket}/videos"), list[str]()
    for n in range(1100):
        storage.write_bytes(f"{store.uri}/index/{n % 3}/{make_id(3600.0 * (n % 3) + n)}", b"")
    events = storage.filesystem(store.uri)[0].s3.meta.events

    def count(**sent: Any) -> None:
        requests.append(sent["request"].url)

    events.register("before-send.s3", count)
    assert store.read_index() == VideoIndex(hours=[0, 1, 2])
    events.unregister("before-send.s3", count)
    assert len(requests) == 1


def test_ids_sort_by_time() -> None:
    times = [0.0, 1000.0, 1000.001, 1.7e9, 1e10]
    ids = [make_id(time) for time in times]
    assert ids == sorted(ids)
    assert all(re.fullmatch(ID_PATTERN, name) for name in ids)
    assert make_id(0.0) != ids[0]


def test_open_states() -> None:
    statuses: tuple[VideoStatus, ...] = ("queued", "in_progress", "completed", "failed")
    assert [status for status in statuses if replace(make_state(), status=status).open] == ["queued", "in_progress"]
