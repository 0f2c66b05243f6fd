"""Losses of distillation. Shapes: B clips, L frames, K emotions, D dimensions of the identity code."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def aggregate_emotion(logits: Tensor, speech_mask: Tensor) -> Tensor:
    """Averages the teacher's logits over the frames of a clip that contain speech.

    Albanie et al. 2018 (arXiv 1808.05561, sec. 3.2) use the maximum, since few frames of their clips are
    expressive. The mean is more robust if speech moves the mouth in every frame, and represents the expression of
    the whole clip.

    Args:
        logits: ``[B, L, K]``.
        speech_mask: bool ``[B, L]``.

    Returns:
        ``[B, K]``.
    """
    weight = speech_mask[..., None].to(logits.dtype)
    return (logits * weight).sum(1) / weight.sum(1).clamp(min=1.0)


def softened_cross_entropy(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Computes ``T^2 * CE(softmax(teacher / T), log_softmax(student / T))`` minus the teacher's entropy.

    Hinton et al. 2015, arXiv 1503.02531, sec. 2; T = 2 in Albanie et al. 2018. The loss is 0 if the distributions
    are equal.

    Args:
        student: logits ``[B, K]``.
        teacher: logits ``[B, K]``.
        temperature: T.

    Returns:
        scalar, >= 0.
    """
    target = F.log_softmax(teacher / temperature, dim=-1)
    imitation = F.log_softmax(student / temperature, dim=-1)
    return F.kl_div(imitation, target, reduction="batchmean", log_target=True) * temperature**2


def cosine_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Computes the mean ``1 - cos`` of codes ``[B, D]``, in [0, 2] (Speech2Face, Oh et al. 2019)."""
    return (1.0 - F.cosine_similarity(student, teacher, dim=-1)).mean()


def identity_contrast(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Computes a contrastive loss of voices and faces over the batch.

    InfoNCE (van den Oord et al. 2018, arXiv 1807.03748, eq. 4) with a soft target: without labels it is not known
    which clips have the same speaker, so the target is the similarity of the faces by the teacher. Two clips of one
    speaker, whose codes agree, are not pushed apart.

    Args:
        student: unit-length codes ``[B, D]``.
        teacher: unit-length codes ``[B, D]``.
        temperature: divisor of the cosines.

    Returns:
        scalar, >= 0: KL divergence between the two similarity distributions.
    """
    target = F.log_softmax(teacher @ teacher.T / temperature, dim=-1)
    predicted = F.log_softmax(student @ teacher.T / temperature, dim=-1)
    return F.kl_div(predicted, target, reduction="batchmean", log_target=True)


class Dependence:
    """Linear dependence of two codes: the mean squared canonical correlation (Hotelling 1936).

    ``tr(Caa^-1 Cab Cbb^-1 Cba) / rank``. The covariances are running averages over batches, since one batch is too
    small to distinguish dependence from chance; the gradient is that of the current batch's share.

    It is the disentangling term between the student's identity code and the emotion by its teacher, and between the
    student's emotion code and the identity by its teacher. At 0 no linear probe predicts one from the other.

    Args:
        memory: share of the running covariances that is kept in each update.
        ridge: added to the variances, as a share of their mean; smaller variances are treated as noise.
    """

    def __init__(self, memory: float = 0.8, ridge: float = 0.02) -> None:
        self.memory, self.ridge = memory, ridge
        self.covariance: Tensor | None = None

    def __call__(self, code: Tensor, other: Tensor) -> Tensor:
        """Updates the covariances; ``[B, D]`` and ``[B, E]`` -> scalar in [0, 1], 0 if they are uncorrelated."""
        a = code.shape[1]
        with torch.autocast(code.device.type, enabled=False):
            both = torch.cat([code, other.detach()], dim=1)
            both = both.to(torch.promote_types(both.dtype, torch.float32))
            both = both - both.mean(0)
            batch = both.T @ both / max(1, len(both) - 1)
            running = batch.detach()
            if self.covariance is not None:
                running = self.memory * self.covariance + (1 - self.memory) * running
            self.covariance = running
            c = running + batch - batch.detach()  # the value of ``running`` with the gradient of ``batch``
            rank = min(a, other.shape[1])
            return torch.trace(self._whitened(c[:a, :a], c[:a, a:]) @ self._whitened(c[a:, a:], c[a:, :a])) / rank

    def _whitened(self, variance: Tensor, cross: Tensor) -> Tensor:
        ridge = self.ridge * variance.diagonal().mean() + torch.finfo(variance.dtype).tiny
        eye = torch.eye(len(variance), device=variance.device, dtype=variance.dtype)
        # Without a check of the result, for which the host would wait: the ridge makes the matrix regular.
        solution: Tensor = torch.linalg.solve_ex(variance + ridge * eye, cross).result
        return solution
