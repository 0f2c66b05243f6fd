"""The last layer of an identity network."""

from __future__ import annotations

import torch

from s2v_ray.models.teachers import ConvFace
from s2v_ray.training.tasks.teachers import whiten_within_speakers


def test_whitening_removes_variation_within_a_speaker() -> None:
    torch.manual_seed(0)
    network = ConvFace(4, 8).eval()
    features = torch.randn(400, 32)
    speaker, emotion = torch.arange(400) % 3, (torch.arange(400) // 3) % 2
    features[:, :2] += 4 * torch.eye(3)[speaker][:, :2]
    features[:, 5] += 3 * emotion
    before = network.head(features).detach()
    whiten_within_speakers(network, before, speaker)
    after = network.head(features).detach()
    assert torch.linalg.matrix_rank(after - after.mean(0), atol=1e-3) == 2  # three speakers differ in two directions

    def spread(x: torch.Tensor, of: torch.Tensor) -> float:
        means = torch.stack([x[of == k].mean(0) for k in of.unique()])
        return float((means - means.mean(0)).norm())

    assert spread(after, emotion) / spread(after, speaker) < 0.2 * spread(before, emotion) / spread(before, speaker)
