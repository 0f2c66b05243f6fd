"""Judges: networks that measure generated frames and are not used in training."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from s2v_ray import storage
from s2v_ray.models import teachers
from s2v_ray.models.sync import load_sync, sync_uri


class FaceJudge(Protocol):
    """Computes one vector for each face."""

    def __call__(self, frames: np.ndarray | Tensor, /) -> Tensor:
        """uint8 ``[N, S, S, 3]`` RGB -> float32 ``[N, D]``."""
        ...


class EmotionJudge(FaceJudge, Protocol):
    """A face judge whose output is the logits of emotions."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the logits, in order."""
        ...


class SyncJudge(Protocol):
    """Embeds windows of speech and of frames in one space, in which windows that belong together are close."""

    window: int

    def embed_speech(self, speech: Tensor, /) -> Tensor:
        """``[B, T * 640]`` -> ``[B, T - window + 1, D]``, unit length."""
        ...

    def embed_frames(self, frames: Tensor, /) -> Tensor:
        """``[B, T, 3, S, S]`` in [-1, 1] -> ``[B, T - window + 1, D]``, unit length."""
        ...


@dataclass(frozen=True)
class Judges:
    """The judges of a corpus. A judge that the corpus does not have is None, and its metrics are left out.

    Attributes:
        identity: identity code of a face, unit length.
        emotion: emotion logits of a face.
        mouth: mouth opening of a face in [0, 1], ``[N, 1]``.
        sync: whether mouth and speech agree.
    """

    identity: FaceJudge | None = None
    emotion: EmotionJudge | None = None
    mouth: FaceJudge | None = None
    sync: SyncJudge | None = None

    def missing(self) -> list[str]:
        """Roles that have no judge, in the order of the attributes."""
        return [role for role in ROLES if getattr(self, role) is None]


ROLES = tuple(field.name for field in fields(Judges))
"""Roles of judges: identity, emotion, mouth, sync."""


def open_judges(corpus: str, device: torch.device | str = "cpu", roles: Collection[str] = ROLES) -> Judges:
    """Loads the judges that a corpus has.

    Args:
        corpus: URI of the corpus.
        device: device of the networks.
        roles: roles to load; the others stay None.

    Raises:
        ArtifactError: a judge exists and cannot be used.
    """

    def face(role: str) -> teachers.FaceNetwork | None:
        uri = storage.join(corpus, "judges", role)
        return teachers.load(uri, device) if role in roles and storage.list_files(uri) else None

    has_sync = "sync" in roles and storage.list_files(sync_uri(corpus, "judge"))
    sync = load_sync(corpus, "judge").to(device) if has_sync else None
    return Judges(face("identity"), face("emotion"), face("mouth"), sync)
