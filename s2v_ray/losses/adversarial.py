"""Losses of generator and discriminators. Logits may be bf16; reductions are in float32."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Computes the hinge loss ``E max(0, 1 - D(real)) + E max(0, 1 + D(fake))`` (Lim and Ye 2017, arXiv 1705.02894).

    Args:
        real: logits of any shape.
        fake: logits of any shape.

    Returns:
        scalar, >= 0.
    """
    return F.relu(1.0 - real.float()).mean() + F.relu(1.0 + fake.float()).mean()


def hinge_generator(fake: Tensor) -> Tensor:
    """Computes ``-E D(fake)`` (Lim and Ye 2017). Logits of any shape; scalar."""
    return -fake.float().mean()


def emotion_discriminator(real: Tensor, fake: Tensor, target: Tensor) -> Tensor:
    """Computes the cross-entropy to the emotion for real frames and to "generated", the last class, for generated ones.

    After emotalkingface (Eskimez et al. 2021).

    Args:
        real: logits ``[N, K + 1]``.
        fake: logits ``[N, K + 1]``.
        target: the teacher's probabilities ``[N, K]``.

    Returns:
        scalar, >= 0.
    """
    on_real = -(target * F.log_softmax(real.float(), dim=-1)[:, :-1]).sum(-1).mean()
    on_fake = -F.log_softmax(fake.float(), dim=-1)[:, -1].mean()
    return on_real + on_fake


def emotion_generator(fake: Tensor, target: Tensor) -> Tensor:
    """Computes the cross-entropy of generated frames to the emotion in the speech.

    Args:
        fake: logits ``[N, K + 1]``.
        target: probabilities ``[N, K]``.

    Returns:
        scalar, >= 0.
    """
    return -(target * F.log_softmax(fake.float(), dim=-1)[:, :-1]).sum(-1).mean()


def feature_matching(fake: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """Computes the mean over layers and pictures of ``mean|fake - real| / mean|real|`` (pix2pixHD, Wang et al. 2018).

    The division by the mean makes layers comparable; equation 3 there divides by the number of entries only.

    Args:
        fake: a discriminator's features of generated frames, one tensor ``[N, C, h, w]`` per layer.
        real: the same for the real frames that they should equal; no gradient flows into them.

    Returns:
        scalar, >= 0.
    """
    terms = []
    for a, b in zip(fake, real, strict=True):
        target = b.detach().float().flatten(1)
        terms.append((a.float().flatten(1) - target).abs().mean(1) / target.abs().mean(1).clamp(min=1e-6))
    return torch.stack(terms).mean()
