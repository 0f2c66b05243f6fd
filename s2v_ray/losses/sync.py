"""Losses of lip sync."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def sync_contrast(speech: Tensor, frames: Tensor, temperature: Tensor | float, gap: int = 1) -> Tensor:
    """A window of the mouth must find its own window of speech among all windows of the same clip, and the other way
    round (multi-way matching, Chung et al. 2019, arXiv 1809.08001). The shifted pairs are the clip's own, so that neither
    voice nor face helps.

    Args:
        speech, frames: unit-length embeddings ``[B, W, D]`` of the W windows of each clip.
        temperature: logits are ``temperature * cos``.
        gap: shifts of fewer windows than this are neither right nor wrong and are left out.

    Returns:
        scalar, >= 0; ``log W`` is chance when gap is 1.
    """
    with torch.autocast(speech.device.type, enabled=False):  # bf16 would round the logits to some hundredths
        logits = temperature * speech.float() @ frames.float().transpose(1, 2)
    w = logits.shape[-1]
    shift = (torch.arange(w)[:, None] - torch.arange(w)[None]).abs().to(logits.device)
    logits = logits.masked_fill((shift > 0) & (shift < gap), float("-inf"))
    logits, back = logits.flatten(0, 1), logits.transpose(1, 2).flatten(0, 1)
    target = torch.arange(w, device=logits.device).repeat(len(speech))
    return (F.cross_entropy(logits, target) + F.cross_entropy(back, target)) / 2


def sync_accuracy(speech: Tensor, frames: Tensor, gap: int = 5) -> Tensor:
    """Share of pairs in step that agree more than the same mouth with speech shifted by ``gap`` windows or more.

    Args:
        speech, frames: unit-length embeddings ``[B, W, D]``, W > gap.

    Returns:
        scalar in [0, 1]; 0.5 is chance.
    """
    agreement = frames @ speech.transpose(1, 2)
    w = agreement.shape[-1]
    shift = (torch.arange(w)[:, None] - torch.arange(w)[None]).abs().to(agreement.device)
    right = agreement.diagonal(dim1=1, dim2=2)[..., None]
    wins = (right > agreement).float() + 0.5 * (right == agreement).float()
    return wins[(shift >= gap).expand_as(wins)].mean()


def sync_distance(speech: Tensor, frames: Tensor) -> Tensor:
    """Mean ``1 - cos`` of matching windows: the generator's sync loss (Wav2Lip, Prajwal et al. 2020, in its cosine form).

    Args:
        speech, frames: unit-length embeddings ``[B, W, D]``.

    Returns:
        scalar in [0, 2].
    """
    return (1.0 - (speech * frames).sum(-1)).mean()
