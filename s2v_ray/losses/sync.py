"""Losses of lip sync."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def sync_contrast(speech: Tensor, frames: Tensor, temperature: Tensor | float, gap: int = 1) -> Tensor:
    """Computes the contrastive loss of synchronous windows (multi-way matching, Chung et al. 2019, arXiv 1809.08001).

    Each window of the mouth is classified among all windows of speech of the same clip, and vice versa. The
    negatives come from the same clip, so neither voice nor face helps.

    Args:
        speech: unit-length embeddings ``[B, W, D]`` of the W windows of each clip.
        frames: the same of the mouth.
        temperature: factor on the cosine that gives the logits.
        gap: windows that are shifted by less than this are neither positive nor negative, except for the shift 0.

    Returns:
        scalar, >= 0; ``log W`` is chance if gap is 1.
    """
    with torch.autocast(speech.device.type, enabled=False):  # bf16 would round the logits to a few hundredths
        logits = temperature * speech.float() @ frames.float().transpose(1, 2)
    w = logits.shape[-1]
    shift = _shifts(w, logits.device)
    logits = logits.masked_fill((shift > 0) & (shift < gap), float("-inf"))
    logits, transposed = logits.flatten(0, 1), logits.transpose(1, 2).flatten(0, 1)
    target = torch.arange(w, device=logits.device).repeat(len(speech))
    return (F.cross_entropy(logits, target) + F.cross_entropy(transposed, target)) / 2


def sync_accuracy(speech: Tensor, frames: Tensor, gap: int = 5) -> Tensor:
    """Computes the share of comparisons in which the synchronous pair has a larger cosine than a shifted one.

    Args:
        speech: unit-length embeddings ``[B, W, D]``, W > gap.
        frames: the same of the mouth.
        gap: smallest shift of the pairs that are compared, windows.

    Returns:
        scalar in [0, 1]; 0.5 is chance.
    """
    cosine = frames @ speech.transpose(1, 2)
    shift = _shifts(cosine.shape[-1], cosine.device)
    synchronous = cosine.diagonal(dim1=1, dim2=2)[..., None]
    wins = (synchronous > cosine).float() + 0.5 * (synchronous == cosine).float()
    return wins[(shift >= gap).expand_as(wins)].mean()


def sync_distance(speech: Tensor, frames: Tensor) -> Tensor:
    """Computes the mean ``1 - cos`` of matching windows: the generator's sync loss (Wav2Lip, Prajwal et al. 2020).

    Args:
        speech: unit-length embeddings ``[B, W, D]``.
        frames: the same of the mouth.

    Returns:
        scalar in [0, 2].
    """
    return (1.0 - (speech * frames).sum(-1)).mean()


def _shifts(windows: int, device: torch.device) -> Tensor:
    """Returns the absolute differences of window indices, ``[W, W]``."""
    return (torch.arange(windows)[:, None] - torch.arange(windows)[None]).abs().to(device)
