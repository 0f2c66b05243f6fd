"""The sync network learns from clips whose mouths follow the loudness of the speech, and is rejected otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from s2v_ray import shards, storage
from s2v_ray.clip import Clip
from s2v_ray.config import Recipe
from s2v_ray.media.regions import mouth_box
from s2v_ray.media.timing import SAMPLES_PER_FRAME
from s2v_ray.models.sync import SyncRole, load_sync, sync_uri
from s2v_ray.training import teach
from s2v_ray.training.tasks.sync import SyncSpec, SyncTask
from s2v_ray.training.teach import train_sync
from tests.helpers.recipes import tiny_recipe

SIZE, FRAMES = 32, 40


@pytest.fixture
def recipe() -> Recipe:
    return tiny_recipe(gan={"discriminators": {"width": 8}, "sync": {"steps": 120, "batch": 64, "lr": 3e-3}})


def clip(i: int, in_step: bool) -> Clip:
    """The mouth's brightness is the loudness of the speech, frame by frame, or of another speech."""
    rng = np.random.default_rng(i)
    loudness = np.convolve(rng.random(FRAMES + 2), np.ones(3) / 3, "valid").astype(np.float32)
    loudness = (loudness - loudness.min()) / np.ptp(loudness)
    shown = loudness if in_step else rng.permutation(loudness)
    frames = np.full((FRAMES, SIZE, SIZE, 3), 128, np.uint8)
    y0, y1, x0, x1 = mouth_box(SIZE)
    frames[:, y0:y1, x0:x1] = (255 * shown)[:, None, None, None]
    speech = (0.9 * np.repeat(loudness, SAMPLES_PER_FRAME) * rng.uniform(-1, 1, FRAMES * SAMPLES_PER_FRAME)).astype(
        np.float32
    )
    return Clip(f"c{i}", frames, speech, "s", "", "", "drawn", np.zeros((FRAMES, 5, 2), np.float32))


def corpus(folder: Path, in_step: bool) -> str:
    for split, ids in (("train", range(24)), ("val", range(24, 32))):
        shards.write_shard(
            str(folder / split / "part-00000.parquet"), [shards.encode_clip(clip(i, in_step)) for i in ids]
        )
    splits = {split: {"shards": int(split != "test")} for split in shards.SPLITS}
    storage.write_manifest(str(folder), "corpus", shards.CORPUS_SCHEMA, splits=splits)
    return str(folder)


@pytest.mark.parametrize("role", ["expert", "judge"])
def test_it_learns_and_comes_back_as_it_was(tmp_path: Path, recipe: Recipe, role: SyncRole) -> None:
    uri = corpus(tmp_path, in_step=True)
    result = train_sync(uri, recipe, role)
    assert result["accuracy"] > 0.8
    network = load_sync(uri, role)
    assert network.window == {"expert": 5, "judge": 7}[role]
    assert not any(p.requires_grad for p in network.parameters())
    with pytest.raises(storage.ArtifactError, match="gan.sync.min_accuracy is 1.01"):
        load_sync(uri, role, min_accuracy=1.01)
    weights = Path(sync_uri(uri, role)) / "model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(storage.ArtifactError, match="damaged"):
        load_sync(uri, role)


def test_expert_and_judge_are_trained_on_different_clips(
    tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, seen = corpus(tmp_path, in_step=True), {}

    class Recorded(SyncTask):
        def __init__(self, spec: SyncSpec, train: Sequence[Clip], *rest: Any) -> None:
            seen[spec.role] = {clip.id for clip in train}
            super().__init__(spec, train, *rest)

    monkeypatch.setattr(teach, "SyncTask", Recorded)
    monkeypatch.setattr(teach, "_train", lambda *_, **__: None)
    for role in ("expert", "judge"):
        train_sync(uri, recipe, role)
    assert seen["expert"] and seen["judge"] and not seen["expert"] & seen["judge"]
    assert seen["expert"] | seen["judge"] == {f"c{i}" for i in range(24)}


def test_at_chance_it_is_refused_and_nothing_is_published(tmp_path: Path, recipe: Recipe) -> None:
    uri = corpus(tmp_path, in_step=False)
    with pytest.raises(storage.ArtifactError, match=r"sync expert is at 0\.\d+ on held-out clips \(chance 0\.50"):
        train_sync(uri, recipe, "expert")
    assert not storage.exists(sync_uri(uri, "expert"))


def test_too_short_clips_are_named(tmp_path: Path, recipe: Recipe) -> None:
    uri = corpus(tmp_path, in_step=True)
    longer = recipe.model_copy(
        update={"gan": recipe.gan.model_copy(update={"sync": recipe.gan.sync.model_copy(update={"window": 30})})}
    )
    with pytest.raises(storage.ArtifactError, match="at least 47 frames"):
        train_sync(uri, longer, "judge")
