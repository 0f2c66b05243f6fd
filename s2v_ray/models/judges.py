"""Judges: networks that measure generated frames in an evaluation, and neither train nor rank anything.

While the GAN trains, its validation measures the same figures with the teachers and the sync expert. So checkpoints
and trials of sweeps are chosen by other networks than those that the evaluation uses.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from s2v_ray import storage
from s2v_ray.media.face import make_detector
from s2v_ray.models import teachers
from s2v_ray.models.face_card import CARD
from s2v_ray.models.landmarks import DetectorLandmarks, LandmarkNetwork
from s2v_ray.models.sync import SyncRole, load_sync, sync_uri


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


class LandmarkJudge(Protocol):
    """Finds points in aligned crops. ``eyelids`` and ``lips`` are pairs of indices, empty if it has no such points."""

    @property
    def eyelids(self) -> tuple[tuple[int, int], ...]:
        """Upper and lower eyelid, pair by pair."""
        ...

    @property
    def lips(self) -> tuple[tuple[int, int], ...]:
        """Upper and lower inner lip, pair by pair."""
        ...

    def __call__(self, frames: np.ndarray | Tensor, /) -> np.ndarray:
        """uint8 ``[N, S, S, 3]`` RGB -> ``[N, P, 2]``, shares of the crop's side; NaN where nothing is found."""
        ...


@dataclass(frozen=True)
class Judges:
    """Networks that measure frames, by role. One that does not exist is None, and its metrics are left out.

    Attributes:
        identity: identity code of a face, unit length.
        emotion: emotion logits of a face.
        mouth: mouth opening of a face in [0, 1], ``[N, 1]``.
        sync: whether mouth and speech agree.
        landmarks: points of a face.
    """

    identity: FaceJudge | None = None
    emotion: EmotionJudge | None = None
    mouth: FaceJudge | None = None
    sync: SyncJudge | None = None
    landmarks: LandmarkJudge | None = None

    def missing(self) -> list[str]:
        """Roles that have no network, in the order of the attributes."""
        return [role for role in ROLES if getattr(self, role) is None]

    def names(self) -> dict[str, str]:
        """Role -> name of the network: the title of its card or, for a network without one, "made by `s2v teach`"."""
        found = {role: getattr(self, role) for role in ROLES if getattr(self, role) is not None}
        return {role: _title(network) or "made by `s2v teach`" for role, network in found.items()}


ROLES = tuple(field.name for field in fields(Judges))
"""Roles of judges: identity, emotion, mouth, sync, landmarks."""


def _title(network: object) -> str:
    card = getattr(network, "card", network)
    return str(getattr(card, "title", ""))


def open_judges(corpus: str, device: torch.device | str = "cpu", landmarks: LandmarkJudge | None = None) -> Judges:
    """Loads the judges that a corpus has.

    Args:
        corpus: URI of the corpus.
        device: device of the networks.
        landmarks: finds landmarks; it is no part of a corpus.

    Raises:
        ArtifactError: a judge exists and cannot be used.
    """
    identity, emotion, mouth = (_open_face(corpus, "judges", role, device) for role in ("identity", "emotion", "mouth"))
    return Judges(identity, emotion, mouth, _open_sync(corpus, "judge", device), landmarks)


def open_validators(corpus: str, device: torch.device | str = "cpu") -> Judges:
    """Loads the networks that validation measures with: the teachers and the sync expert of a corpus.

    Args:
        corpus: URI of the corpus.
        device: device of the networks.

    Raises:
        ArtifactError: a network exists and cannot be used.
    """
    identity, emotion = (_open_face(corpus, "teachers", role, device) for role in ("identity", "emotion"))
    return Judges(identity, emotion, sync=_open_sync(corpus, "expert", device))


def open_landmarks(card: str, detector: str) -> LandmarkJudge | None:
    """Opens the network that finds landmarks.

    Args:
        card: URI of the card of a landmark network, or "". Its weights lie beside it, or it names their URI.
        detector: without a card, YuNet from the URI of its weights; "haar" finds no mouth, so it is not used.

    Returns:
        The network, or None if there is neither a card nor YuNet.

    Raises:
        ArtifactError: the card or its weights cannot be used.
        ValueError: the card has another role, or the detector's weights cannot be used.
    """
    if card:
        return LandmarkNetwork(teachers.resolve_card(card, ""))
    return None if detector == "haar" else DetectorLandmarks(make_detector(detector), "YuNet, five points")


def _open_face(
    corpus: str, folder: Literal["judges", "teachers"], role: str, device: torch.device | str
) -> teachers.FaceNetwork | None:
    uri = storage.join(corpus, folder, role)
    return teachers.load(uri, device) if storage.exists(storage.join(uri, CARD)) else None


def _open_sync(corpus: str, role: SyncRole, device: torch.device | str) -> SyncJudge | None:
    has_sync = storage.exists(storage.join(sync_uri(corpus, role), storage.MANIFEST))
    return load_sync(corpus, role).to(device) if has_sync else None
