"""Losses between generator and discriminators. Logits may come in bf16; what is summed over them is float32."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """``E max(0, 1 - D(real)) + E max(0, 1 + D(fake))`` (Lim and Ye 2017, arXiv 1705.02894). Logits of any shape; scalar >= 0."""
    return F.relu(1.0 - real.float()).mean() + F.relu(1.0 + fake.float()).mean()


def hinge_generator(fake: Tensor) -> Tensor:
    """``-E D(fake)`` (the same source). Logits of any shape; scalar."""
    return -fake.float().mean()


def emotion_discriminator(real: Tensor, fake: Tensor, target: Tensor) -> Tensor:
    """Name the emotion of real frames, and "generated", the last class, for the rest (emotalkingface, Eskimez et al. 2021).

    Args:
        real, fake: logits ``[N, K + 1]``. target: the teacher's probabilities ``[N, K]``.

    Returns:
        scalar, >= 0.
    """
    on_real = -(target * F.log_softmax(real.float(), dim=-1)[:, :-1]).sum(-1).mean()
    on_fake = -F.log_softmax(fake.float(), dim=-1)[:, -1].mean()
    return on_real + on_fake


def emotion_generator(fake: Tensor, target: Tensor) -> Tensor:
    """Show the emotion that was heard: cross-entropy of ``[N, K + 1]`` to probabilities ``[N, K]``. Scalar, >= 0."""
    return -(target * F.log_softmax(fake.float(), dim=-1)[:, :-1]).sum(-1).mean()
