from __future__ import annotations

from pathlib import Path

import pytest
import torch

from s2v_ray import storage
from s2v_ray.media.timing import frames_to_samples
from s2v_ray.models.sync import (
    SYNC_SCHEMA,
    SyncBase,
    SyncJudgeNetwork,
    SyncNetwork,
    load_sync,
    make_sync,
    open_sync,
    save_sync,
    sync_role_of,
    sync_uri,
    sync_window,
)


def save(corpus: str, accuracy: float = 0.8) -> SyncNetwork:
    torch.manual_seed(0)
    network = SyncNetwork(4, 5, 32)
    save_sync(corpus, "expert", network, width=4, window=5, size=32, accuracy=accuracy)
    return network


@pytest.fixture(params=["expert", "judge"])
def network(request: pytest.FixtureRequest) -> SyncBase:
    torch.manual_seed(0)
    return make_sync(request.param, 4, 5, 32).requires_grad_(False)


def test_shapes(network: SyncBase) -> None:
    frames = torch.rand(3, 7, 3, 32, 32) * 2 - 1
    assert network(torch.randn(3, frames_to_samples(7)), frames).shape == (3, 3)


def test_a_window_does_not_depend_on_the_frames_around_it(network: SyncBase) -> None:
    frames = torch.rand(2, 12, 3, 32, 32) * 2 - 1
    together = network.embed_frames(frames)
    assert together.shape == (2, 8, 64)
    for start in (0, 3, 7):
        alone = network.embed_frames(frames[:, start : start + 5])
        torch.testing.assert_close(alone[:, 0], together[:, start], atol=1e-5, rtol=1e-4)
    assert (together[:, 0] - together[:, 3]).abs().max() > 1e-3, "windows differ from each other"


def test_embeddings_depend_on_the_motion_of_the_mouth_only(network: SyncBase) -> None:
    frames = torch.rand(1, 9, 3, 32, 32)
    other = frames.clone()
    other[..., :16, :] = 0.0  # the upper half of the face
    torch.testing.assert_close(network.embed_frames(frames), network.embed_frames(other))
    still = frames[:, :1].expand(-1, 9, -1, -1, -1)
    embedding = network.embed_frames(still)
    torch.testing.assert_close(
        embedding, network.embed_frames(1.0 - still), atol=1e-4, rtol=1e-3
    )  # appearance has no effect


def test_embeddings_have_unit_length(network: SyncBase) -> None:
    torch.testing.assert_close(
        network.embed_speech(torch.randn(2, frames_to_samples(8))).norm(dim=-1), torch.ones(2, 4)
    )


def test_judge_and_expert_differ_in_window_layers_and_clips() -> None:
    assert (sync_window("expert", 5), sync_window("judge", 5), sync_window("judge", 1)) == (5, 7, 4)
    assert isinstance(make_sync("judge", 4, 7, 32), SyncJudgeNetwork)
    assert not isinstance(make_sync("expert", 4, 5, 32), SyncJudgeNetwork)
    roles = [sync_role_of(f"clip{n}") for n in range(400)]
    assert roles.count("expert") == pytest.approx(200, abs=40)
    assert roles == [sync_role_of(f"clip{n}") for n in range(400)]
    # The last hexadecimal digit of the SHA-256 is 0 for "clip4" and d for "clip0".
    assert (sync_role_of("clip4"), sync_role_of("clip0")) == ("expert", "judge")


def test_float32_under_autocast() -> None:
    network, speech, frames = SyncNetwork(4, 5, 32), torch.randn(1, frames_to_samples(8)), torch.rand(1, 8, 3, 32, 32)
    expected = network.embed_speech(speech), network.embed_frames(frames)
    with torch.autocast("cpu", torch.bfloat16):
        found = network.embed_speech(speech), network.embed_frames(frames)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_saved_network_is_loaded_frozen_and_unchanged(tmp_path: Path) -> None:
    made = save(str(tmp_path))
    loaded, sha256 = open_sync(sync_uri(str(tmp_path), "expert"))
    assert all(torch.equal(a, b) for a, b in zip(made.parameters(), loaded.parameters(), strict=True))
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    manifest = storage.read_manifest(sync_uri(str(tmp_path), "expert"), "sync", SYNC_SCHEMA)
    assert (manifest["role"], manifest["sha256"]) == ("expert", sha256)


def test_expert_and_judge_have_their_own_places() -> None:
    assert sync_uri("s3://b/corpus", "expert") == "s3://b/corpus/teachers/sync"
    assert sync_uri("s3://b/corpus", "judge") == "s3://b/corpus/judges/sync"


def test_missing_weak_and_damaged_networks_are_errors(tmp_path: Path) -> None:
    corpus = str(tmp_path)
    with pytest.raises(storage.ArtifactError, match="there is no sync at"):
        load_sync(corpus, "expert")
    save(corpus, accuracy=0.6)
    with pytest.raises(storage.ArtifactError, match="reached 0.60 on held-out clips, gan.sync.min_accuracy is 0.65"):
        load_sync(corpus, "expert", 0.65)
    weights = tmp_path / "teachers" / "sync" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(storage.ArtifactError, match="damaged"):
        load_sync(corpus, "expert")
