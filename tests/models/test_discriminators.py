from __future__ import annotations

import torch

from s2v_ray.models.discriminators import (
    HIGH_PASS_GAIN,
    EmotionNetwork,
    FrameNetwork,
    MotionNetwork,
    MouthNetwork,
    high_pass,
)


def test_shapes() -> None:
    frames = torch.rand(3, 3, 32, 32) * 2 - 1
    assert FrameNetwork(4, 8)(frames, torch.randn(3, 8)).shape == (3, 2, 2)
    assert MouthNetwork(4)(frames[..., :17, :19]).shape == (3, 2, 2)
    assert MotionNetwork(4)(frames.repeat(1, 3, 1, 1)).shape == (3, 2, 2)
    assert EmotionNetwork(4, 5)(frames).shape == (3, 6)
    assert [f.shape[1] for f in FrameNetwork(4, 8).features(frames)] == [4, 8, 16, 16]


def test_the_frame_network_depends_on_the_identity() -> None:
    torch.manual_seed(0)
    network, frame = FrameNetwork(8, 8), torch.rand(1, 3, 32, 32)
    assert not torch.allclose(network(frame, torch.ones(1, 8)), network(frame, -torch.ones(1, 8)))


def test_the_motion_network_sees_amplified_differences() -> None:
    levels = torch.tensor([1.0, 3.0, 7.0]).view(1, 3, 1, 1, 1).expand(1, 3, 3, 16, 16)
    expanded = MotionNetwork(4).expand(levels.flatten(1, 2))
    assert expanded[0, :, 0, 0].tolist() == [3.0] * 3 + [HIGH_PASS_GAIN * 2.0] * 3 + [HIGH_PASS_GAIN * 4.0] * 3


def test_high_pass_by_hand() -> None:
    picture = torch.zeros(1, 1, 5, 5)
    picture[0, 0, 2, 2] = 9.0
    passed = high_pass(picture)
    assert passed[0, 0, 2, 2].item() == HIGH_PASS_GAIN * 8.0
    assert passed[0, 0, 1, 1].item() == -HIGH_PASS_GAIN
    assert high_pass(torch.full((1, 1, 5, 5), 7.0)).abs().max() < 1e-5
