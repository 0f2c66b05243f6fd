"""The sync network: measures whether mouth and speech are synchronous.

A corpus has two of them: the expert, for the GAN's sync loss, and the judge, for evaluation only.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn
from torch.nn import functional as F

from s2v_ray import storage
from s2v_ray.media.audio import log_mel
from s2v_ray.media.face import mouth_box
from s2v_ray.media.timing import MEL_BINS, MEL_PER_FRAME

SYNC_SCHEMA = 1
WINDOW_SLACK = 16
"""Number of windows of speech among which a window of the mouth is classified."""

SyncRole = Literal["expert", "judge"]


class SyncNetwork(nn.Module):
    """Embeds windows of a few frames of speech and of the mouth in one space (SyncNet, Chung and Zisserman 2016).

    There is no batch normalisation, which makes the loss of sync discriminators collapse. Everything is computed in
    float32,
    also under autocast: motion is what remains after the mean is subtracted, and in bf16 it would be rounding errors.

    Args:
        width: channels of the first layer.
        window: frames per window.
        size: side of the frames.
        dim: size of the embeddings.
    """

    def __init__(self, width: int, window: int, size: int, dim: int = 64) -> None:
        super().__init__()
        self.window, self.box = window, mouth_box(size)
        self.mouth_side = 32
        self.speech = nn.Sequential(
            nn.Conv1d(MEL_BINS, 4 * width, 3, padding=1), nn.LeakyReLU(0.2),
            nn.Conv1d(4 * width, 4 * width, MEL_PER_FRAME, stride=MEL_PER_FRAME), nn.LeakyReLU(0.2),
            nn.Conv1d(4 * width, 4 * width, window), nn.LeakyReLU(0.2),
            nn.Conv1d(4 * width, dim, 1),
        )  # fmt: skip
        self.mouth = nn.Sequential(
            nn.Conv2d(3, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1), nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 4 * width, 4, stride=2, padding=1), nn.LeakyReLU(0.2),
            nn.Flatten(), nn.Linear(4 * width * (self.mouth_side // 8) ** 2, 4 * width), nn.LeakyReLU(0.2),
        )  # fmt: skip
        self.movement = nn.Sequential(
            nn.Conv1d(4 * width, 4 * width, window), nn.LeakyReLU(0.2), nn.Conv1d(4 * width, dim, 1)
        )
        self.temperature = nn.Parameter(torch.full((1,), 10.0))  # not a scalar, as ZeRO partitions by dimension

    def embed_speech(self, speech: Tensor) -> Tensor:
        """``[B, T * 640]`` -> ``[B, T - window + 1, dim]``, unit length."""
        with torch.autocast(speech.device.type, enabled=False):
            return F.normalize(self.speech(log_mel(speech)).transpose(1, 2), dim=-1)

    def embed_frames(self, frames: Tensor) -> Tensor:
        """``[B, T, 3, S, S]`` in [-1, 1] -> ``[B, T - window + 1, dim]``, unit length."""
        y0, y1, x0, x1 = self.box
        b, t = frames.shape[:2]
        with torch.autocast(frames.device.type, enabled=False):
            mouth = F.interpolate(
                frames[..., y0:y1, x0:x1].flatten(0, 1),
                (self.mouth_side, self.mouth_side),
                mode="bilinear",
                align_corners=False,
            )
            x = self.mouth(mouth).unflatten(0, (b, t))
            x = x - x.mean(1, keepdim=True)  # removes appearance, which is constant over the clip
            return F.normalize(self.movement(x.transpose(1, 2)).transpose(1, 2), dim=-1)

    def forward(self, speech: Tensor, frames: Tensor) -> Tensor:
        """Computes logits of synchrony: ``[B, T * 640]``, ``[B, T, 3, S, S]`` -> ``[B, T - window + 1]``."""
        cosine = (self.embed_speech(speech) * self.embed_frames(frames)).sum(-1)
        return self.temperature * cosine


def sync_uri(corpus: str, role: SyncRole) -> str:
    """Returns the URI of a sync network of a corpus."""
    return storage.join(corpus, "teachers" if role == "expert" else "judges", "sync")


def save_sync(corpus: str, role: SyncRole, network: SyncNetwork, **card: Any) -> str:
    """Writes a trained sync network into a corpus and returns its URI.

    Args:
        corpus: URI of the corpus.
        role: expert or judge.
        network: to write.
        card: fields of the manifest: ``width``, ``window``, ``size``, ``accuracy``, parents and digest of the config.
    """
    weights = save_safetensors(network.state_dict())
    uri = sync_uri(corpus, role)
    storage.write_bytes(storage.join(uri, "model.safetensors"), weights)
    storage.write_manifest(uri, "sync", SYNC_SCHEMA, role=role, sha256=storage.sha256(weights), **card)
    return uri


def load_sync(corpus: str, role: SyncRole, min_accuracy: float = 0.0) -> SyncNetwork:
    """Loads a sync network of a corpus, frozen.

    Raises:
        ArtifactError: there is none, its weights are damaged, or its accuracy on held-out clips is below
            ``min_accuracy``.
    """
    return open_sync(sync_uri(corpus, role), min_accuracy=min_accuracy)[0]


def open_sync(uri: str, *, size: int | None = None, min_accuracy: float = 0.0) -> tuple[SyncNetwork, str]:
    """Loads a sync network, frozen.

    Args:
        uri: folder of the network.
        size: side of the frames, if it differs from that in training; the mouth is scaled to one size in any case.
        min_accuracy: smallest accepted accuracy on held-out clips.

    Returns:
        the network, and the SHA-256 of its weights.

    Raises:
        ArtifactError: as ``load_sync``.
    """
    manifest = storage.read_manifest(uri, "sync", SYNC_SCHEMA)
    if manifest["accuracy"] < min_accuracy:
        raise storage.ArtifactError(
            f"the sync {manifest['role']} at {uri} reached {manifest['accuracy']:.2f} on held-out clips, "
            f"gan.sync.min_accuracy is {min_accuracy:.2f}: run `s2v teach` again"
        )
    weights = storage.read_bytes(storage.join(uri, "model.safetensors"))
    if storage.sha256(weights) != manifest["sha256"]:
        raise storage.ArtifactError(
            f"the sync network at {uri} is damaged (its SHA-256 differs): run `s2v teach` again"
        )
    network = SyncNetwork(manifest["width"], manifest["window"], size or manifest["size"])
    network.load_state_dict(load_safetensors(weights))
    return network.eval().requires_grad_(False), manifest["sha256"]
