"""Losses by which the student imitates its teachers. Shape suffixes: B clips, L frames, K emotions, D dimensions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def aggregate_emotion(logits: Tensor, heard: Tensor) -> Tensor:
    """Teacher logits a frame -> a clip: mean of the logits over the frames heard.

    Albanie et al. 2018 (arXiv 1808.05561, sec. 3.2) take the maximum, for clips of which a few frames are expressive; the
    mean is steadier where speech moves the mouth in every frame, and what is kept of a clip is its lasting expression.

    Args:
        logits: ``[B, L, K]``. heard: bool ``[B, L]``.

    Returns:
        ``[B, K]``.
    """
    weight = heard[..., None].to(logits.dtype)
    return (logits * weight).sum(1) / weight.sum(1).clamp(min=1.0)


def softened_cross_entropy(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """``T^2 * CE(softmax(teacher / T), log_softmax(student / T))`` (Hinton et al. 2015, arXiv 1503.02531, sec. 2; T = 2 in
    Albanie et al. 2018), less the teacher's entropy, so that 0 is perfect imitation.

    Args:
        student, teacher: logits ``[B, K]``.

    Returns:
        scalar, >= 0.
    """
    target = F.log_softmax(teacher / temperature, dim=-1)
    imitation = F.log_softmax(student / temperature, dim=-1)
    return F.kl_div(imitation, target, reduction="batchmean", log_target=True) * temperature**2


def cosine_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean ``1 - cos`` of codes ``[B, D]`` (the normalised feature distance of Speech2Face, Oh et al. 2019). In [0, 2]."""
    return (1.0 - F.cosine_similarity(student, teacher, dim=-1)).mean()


def identity_contrast(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Each voice must find its own face in the batch (InfoNCE, van den Oord et al. 2018, arXiv 1807.03748, eq. 4).

    Without labels nobody knows which clips share a speaker. The target is therefore soft: how alike the teacher finds
    the faces. Two clips of one person, whose codes agree, are not pushed apart.

    Args:
        student, teacher: unit-length codes ``[B, D]``.

    Returns:
        scalar, >= 0: KL divergence between the two similarity distributions.
    """
    target = F.log_softmax(teacher @ teacher.T / temperature, dim=-1)
    found = F.log_softmax(student @ teacher.T / temperature, dim=-1)
    return F.kl_div(found, target, reduction="batchmean", log_target=True)


def dependence(code: Tensor, other: Tensor) -> Tensor:
    """Linear dependence of two codes over a batch: HSIC with linear kernels (Gretton et al. 2005), normalised as in CKA
    (Kornblith et al. 2019, arXiv 1905.00414, eq. 3 and 4).

    The disentangling term: between the student's identity code and the emotion its teacher sees, and between the
    student's emotion code and the identity its teacher sees. At 0 no linear probe reads one off the other.

    Args:
        code: ``[B, D]``. other: ``[B, E]``.

    Returns:
        scalar in [0, 1]; 0 where they are uncorrelated, 1 where one is a rotated and scaled copy of the other.
    """
    a = code - code.mean(0)
    b = other - other.mean(0)
    cross = (a.T @ b).square().sum()
    scale = (a.T @ a).square().sum().sqrt() * (b.T @ b).square().sum().sqrt()
    return cross / scale.clamp(min=torch.finfo(scale.dtype).eps)
