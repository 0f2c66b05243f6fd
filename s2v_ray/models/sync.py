"""The sync network: measures whether mouth and speech are synchronous.

A corpus has two of them: the expert, for the GAN's sync loss and its validation, and the judge, for evaluation only.
They have different architectures and are trained on different halves of the clips.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from hashlib import sha256
from typing import Any, Literal

import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn
from torch.nn import functional as F

from s2v_ray import storage
from s2v_ray.media.audio import log_mel
from s2v_ray.media.regions import mouth_box
from s2v_ray.media.timing import MEL_BINS, MEL_PER_FRAME

SYNC_SCHEMA = 2
WINDOW_SLACK = 16
"""Number of windows of speech among which a window of the mouth is classified."""

SyncRole = Literal["expert", "judge"]


class SyncBase(nn.Module, ABC):
    """What sync networks have in common: their towers embed windows of speech and of the mouth in one space.

    There is no batch normalisation, which makes the loss of sync discriminators collapse. Everything is computed in
    float32, also under autocast: motion is a small difference of frames, and in bf16 it would be rounding errors.
    What a window of frames is embedded as does not depend on the frames around it.

    Args:
        window: frames per window.
        size: side of the frames.
    """

    MOUTH_SIDE = 32

    def __init__(self, window: int, size: int) -> None:
        super().__init__()
        self.window, self.box = window, mouth_box(size)
        self.temperature = nn.Parameter(torch.full((1,), 10.0))  # not a scalar, as ZeRO partitions by dimension

    def embed_speech(self, speech: Tensor) -> Tensor:
        """``[B, T * 640]`` -> ``[B, T - window + 1, dim]``, unit length."""
        with torch.autocast(speech.device.type, enabled=False):
            return F.normalize(self._speech(log_mel(speech)).transpose(1, 2), dim=-1)

    def embed_frames(self, frames: Tensor) -> Tensor:
        """``[B, T, 3, S, S]`` in [-1, 1] -> ``[B, T - window + 1, dim]``, unit length."""
        y0, y1, x0, x1 = self.box
        with torch.autocast(frames.device.type, enabled=False):
            mouth = F.interpolate(
                frames[..., y0:y1, x0:x1].flatten(0, 1),
                (self.MOUTH_SIDE, self.MOUTH_SIDE),
                mode="bilinear",
                align_corners=False,
            )
            return F.normalize(self._frames(mouth.unflatten(0, frames.shape[:2])).transpose(1, 2), dim=-1)

    def forward(self, speech: Tensor, frames: Tensor) -> Tensor:
        """Computes logits of synchrony: ``[B, T * 640]``, ``[B, T, 3, S, S]`` -> ``[B, T - window + 1]``."""
        cosine = (self.embed_speech(speech) * self.embed_frames(frames)).sum(-1)
        return self.temperature * cosine

    @abstractmethod
    def _speech(self, mel: Tensor) -> Tensor:
        """``[B, MEL_BINS, T * MEL_PER_FRAME]`` -> ``[B, dim, T - window + 1]``."""

    @abstractmethod
    def _frames(self, mouth: Tensor) -> Tensor:
        """``[B, T, 3, MOUTH_SIDE, MOUTH_SIDE]`` -> ``[B, dim, T - window + 1]``."""


class SyncNetwork(SyncBase):
    """The expert: a tower for each frame, and a layer over the window (SyncNet, Chung and Zisserman 2016).

    The mean over a window is subtracted from the features of its frames: this removes appearance, which is constant.

    Args:
        width: channels of the first layer.
        window: frames per window.
        size: side of the frames.
        dim: size of the embeddings.
    """

    def __init__(self, width: int, window: int, size: int, dim: int = 64) -> None:
        super().__init__(window, size)
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
            nn.Flatten(), nn.Linear(4 * width * (self.MOUTH_SIDE // 8) ** 2, 4 * width), nn.LeakyReLU(0.2),
        )  # fmt: skip
        self.movement = nn.Sequential(
            nn.Conv1d(4 * width, 4 * width, window), nn.LeakyReLU(0.2), nn.Conv1d(4 * width, dim, 1)
        )

    def _speech(self, mel: Tensor) -> Tensor:
        embedded: Tensor = self.speech(mel)
        return embedded

    def _frames(self, mouth: Tensor) -> Tensor:
        b, t = mouth.shape[:2]
        features = self.mouth(mouth.flatten(0, 1)).unflatten(0, (b, t))
        windows = features.unfold(1, self.window, 1)  # [B, N, C, window]
        windows = windows - windows.mean(-1, keepdim=True)
        embedded: Tensor = self.movement(windows.flatten(0, 1)).unflatten(0, (b, -1))
        return embedded.squeeze(-1).transpose(1, 2)


class SyncJudgeNetwork(SyncBase):
    """The judge: three-dimensional convolutions over differences of consecutive mouths, and a longer window.

    It differs from the expert in what it sees (differences of pixels, not frames), in its layers and in its receptive
    field, and it is trained on other clips. So a generator that was trained with the expert gains nothing from the
    expert's errors.

    Args:
        width: channels of the first layer.
        window: frames per window, at least 4.
        size: side of the frames.
        dim: size of the embeddings.
    """

    def __init__(self, width: int, window: int, size: int, dim: int = 64) -> None:
        super().__init__(window, size)
        self.speech = nn.Sequential(
            nn.Conv1d(MEL_BINS, 4 * width, MEL_PER_FRAME, stride=MEL_PER_FRAME), nn.LeakyReLU(0.2),
            nn.Conv1d(4 * width, 4 * width, 3), nn.LeakyReLU(0.2),
            nn.Conv1d(4 * width, dim, window - 2),
        )  # fmt: skip
        self.movement = nn.Sequential(
            nn.Conv3d(3, width, (3, 4, 4), stride=(1, 2, 2), padding=(0, 1, 1)), nn.LeakyReLU(0.2),
            nn.Conv3d(width, 2 * width, (1, 4, 4), stride=(1, 2, 2), padding=(0, 1, 1)), nn.LeakyReLU(0.2),
            nn.Conv3d(2 * width, 4 * width, (1, 8, 8)), nn.LeakyReLU(0.2), nn.Flatten(2),
            nn.Conv1d(4 * width, dim, window - 3),
        )  # fmt: skip

    def _speech(self, mel: Tensor) -> Tensor:
        embedded: Tensor = self.speech(mel)
        return embedded

    def _frames(self, mouth: Tensor) -> Tensor:
        difference = 4.0 * (mouth[:, 1:] - mouth[:, :-1]).transpose(1, 2)  # consecutive frames are nearly equal
        embedded: Tensor = self.movement(difference)
        return embedded


JUDGE_LONGER = 2
"""Frames by which the judge's window is longer than the expert's."""


def make_sync(role: SyncRole, width: int, window: int, size: int) -> SyncBase:
    """Makes the network of a role.

    Args:
        role: "expert" or "judge".
        width: channels of the first layer.
        window: frames per window of this network.
        size: side of the frames.
    """
    return (SyncNetwork if role == "expert" else SyncJudgeNetwork)(width, window, size)


def sync_window(role: SyncRole, window: int) -> int:
    """Frames per window of the network of a role; ``window`` is the recipe's, that of the expert."""
    return window if role == "expert" else max(window + JUDGE_LONGER, 4)


def sync_role_of(clip_id: str) -> SyncRole:
    """The sync network that a training clip belongs to: a hash of its id decides, so that each has its own half."""
    return "expert" if int(sha256(clip_id.encode()).hexdigest(), 16) % 2 == 0 else "judge"


def sync_uri(corpus: str, role: SyncRole) -> str:
    """Returns the URI of a sync network of a corpus."""
    return storage.join(corpus, "teachers" if role == "expert" else "judges", "sync")


def save_sync(corpus: str, role: SyncRole, network: SyncBase, **card: Any) -> str:
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


def load_sync(corpus: str, role: SyncRole, min_accuracy: float = 0.0) -> SyncBase:
    """Loads a sync network of a corpus, frozen.

    Raises:
        ArtifactError: there is none, its weights are damaged, or its accuracy on held-out clips is below
            ``min_accuracy``.
    """
    return open_sync(sync_uri(corpus, role), min_accuracy=min_accuracy)[0]


def open_sync(uri: str, *, size: int | None = None, min_accuracy: float = 0.0) -> tuple[SyncBase, str]:
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
    network = make_sync(manifest["role"], manifest["width"], manifest["window"], size or manifest["size"])
    network.load_state_dict(load_safetensors(weights))
    return network.eval().requires_grad_(False), manifest["sha256"]
