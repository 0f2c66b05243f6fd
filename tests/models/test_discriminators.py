from __future__ import annotations

import torch

from s2v_ray.models.discriminators import EmotionNetwork, FrameNetwork, SequenceNetwork


def test_shapes() -> None:
    frames = torch.rand(3, 7, 3, 32, 32) * 2 - 1
    assert FrameNetwork(4, 8)(frames[:, 0], torch.randn(3, 8)).shape == (3, 2, 2)
    assert SequenceNetwork(4)(frames).shape == (3, 6)
    assert EmotionNetwork(4, 5)(frames[:, 0]).shape == (3, 6)


def test_the_frame_network_depends_on_the_identity() -> None:
    torch.manual_seed(0)
    network, frame = FrameNetwork(8, 8), torch.rand(1, 3, 32, 32)
    assert not torch.allclose(network(frame, torch.ones(1, 8)), network(frame, -torch.ones(1, 8)))


def test_the_sequence_network_depends_on_motion() -> None:
    torch.manual_seed(0)
    network, frames = SequenceNetwork(4), torch.rand(1, 7, 3, 32, 32)
    order = [0, 2, 1, 3, 5, 4, 6]
    assert not torch.allclose(network(frames).sum(), network(frames[:, order]).sum())
