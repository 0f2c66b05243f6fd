"""Identity: distances of face embeddings, and the nearest centroid."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize


def average_content_distance(generated: Tensor, real: Tensor) -> float:
    """ACD-C: mean over frames of ``1 - cos(generated frame, mean of the real clip)``, in [0, 2]; 0 is the same face.

    The ACD of Tulyakov et al. 2018, measured against the real clip as ACD-C of Vougioukas et al. 2019. Real clips do
    not reach 0, because their frames differ from their mean.

    Args:
        generated: ``[N, D]``: identity codes of the generated frames, by the judge.
        real: ``[M, D]``: identity codes of the real clip.
    """
    centre = normalize(real, dim=-1).mean(0, keepdim=True)
    return float((1.0 - cosine_similarity(generated, centre, dim=-1)).mean())


def cosine_identity(generated: Tensor, real: Tensor) -> float:
    """CSIM: mean over frames of the cosine between the identities of a generated and the same real frame, in [-1, 1].

    Args:
        generated: ``[N, D]``: identity codes of the generated frames, by the judge.
        real: ``[N, D]``: identity codes of the same real frames.
    """
    return float(cosine_similarity(generated, real, dim=-1).mean())


def centroids(codes: np.ndarray, speakers: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Computes the mean of the unit codes of each speaker, scaled back to unit length.

    Args:
        codes: ``[N, D]``.
        speakers: N names.

    Returns:
        Centroids ``[S, D]`` and the S names, sorted.
    """
    names = sorted(set(speakers))
    unit = _unit(codes)
    owners = np.asarray(speakers)
    return _unit(np.stack([unit[owners == name].mean(axis=0) for name in names])), names


def nearest_centroid(codes: np.ndarray, centres: np.ndarray, names: Sequence[str]) -> list[str]:
    """For each code of ``[N, D]``, the name of the centroid that has the largest cosine to it."""
    return [names[i] for i in (_unit(codes) @ centres.T).argmax(axis=1)]


def _unit(codes: np.ndarray) -> np.ndarray:
    unit: np.ndarray = codes / np.maximum(np.linalg.norm(codes, axis=-1, keepdims=True), 1e-8)
    return unit
