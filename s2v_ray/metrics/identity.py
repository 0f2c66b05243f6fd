"""Who is it? Distances of face embeddings, and the nearest centroid."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize


def average_content_distance(generated: Tensor, real: Tensor) -> float:
    """ACD-C: mean over frames of ``1 - cos(generated frame, mean of the real clip)``, in [0, 2]; 0 is the same face.

    After Tulyakov et al. 2018, against the real clip as in Vougioukas et al. 2019, whose ACD-C it is. Real clips do not
    score 0: their own spread about their mean is the floor.

    Args:
        generated: ``[N, D]`` identities of frames, by the judge.
        real: ``[M, D]`` those of the real clip.
    """
    centre = normalize(real, dim=-1).mean(0, keepdim=True)
    return float((1.0 - cosine_similarity(generated, centre, dim=-1)).mean())


def cosine_identity(generated: Tensor, real: Tensor) -> float:
    """CSIM: mean over frames of the cosine of the generated frame's identity to that of the same real frame, in [-1, 1].

    Args:
        generated, real: ``[N, D]``, frame by frame.
    """
    return float(cosine_similarity(generated, real, dim=-1).mean())


def centroids(codes: np.ndarray, speakers: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Mean of the unit codes of each speaker, made unit again.

    Args:
        codes: ``[N, D]``.
        speakers: N names.

    Returns:
        ``[S, D]`` and the S names, sorted.
    """
    names = sorted(set(speakers))
    unit = _unit(codes)
    of = np.asarray(speakers)
    return _unit(np.stack([unit[of == name].mean(axis=0) for name in names])), names


def nearest_centroid(codes: np.ndarray, centres: np.ndarray, names: Sequence[str]) -> list[str]:
    """The name whose centroid has the largest cosine to each of the codes ``[N, D]``."""
    return [names[i] for i in (_unit(codes) @ centres.T).argmax(axis=1)]


def _unit(codes: np.ndarray) -> np.ndarray:
    return codes / np.maximum(np.linalg.norm(codes, axis=-1, keepdims=True), 1e-8)
