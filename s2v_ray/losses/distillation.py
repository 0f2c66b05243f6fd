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


class Dependence:
    """How well a linear probe reads one code off another: the mean squared canonical correlation (Hotelling 1936).

    ``tr(Caa^-1 Cab Cbb^-1 Cba) / rank``, from covariances that run over the batches, since one batch is too small to tell a
    leak from chance; the gradient is that of the present batch's share.

    The disentangling term: between the student's identity code and the emotion its teacher sees, and between the student's
    emotion code and the identity its teacher sees. At 0 no linear probe reads one off the other.

    Args:
        memory: share of the running covariances that is kept each time.
        ridge: added to the variances, as a share of their mean; what is smaller counts as noise.
    """

    def __init__(self, memory: float = 0.8, ridge: float = 0.02) -> None:
        self.memory, self.ridge = memory, ridge
        self.covariance: Tensor | None = None

    def __call__(self, code: Tensor, other: Tensor) -> Tensor:
        """``[B, D]`` and ``[B, E]`` -> scalar in [0, 1]; 0 where they are uncorrelated."""
        a = code.shape[1]
        with torch.autocast(code.device.type, enabled=False):
            both = torch.cat([code, other.detach()], dim=1).float()
            both = both - both.mean(0)
            batch = both.T @ both / max(1, len(both) - 1)
            kept = (
                batch.detach()
                if self.covariance is None
                else self.memory * self.covariance + (1 - self.memory) * batch.detach()
            )
            self.covariance = kept
            c = kept + batch - batch.detach()
            rank = min(a, other.shape[1])
            return torch.trace(self._whitened(c[:a, :a], c[:a, a:]) @ self._whitened(c[a:, a:], c[a:, :a])) / rank

    def _whitened(self, variance: Tensor, cross: Tensor) -> Tensor:
        ridge = self.ridge * variance.diagonal().mean() + torch.finfo(variance.dtype).tiny
        return torch.linalg.solve(
            variance + ridge * torch.eye(len(variance), device=variance.device, dtype=variance.dtype), cross
        )
