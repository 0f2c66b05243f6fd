"""Augmentation compared with transforms by hand, and properties of all parameters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import affine_transform
from torch import Tensor

from s2v_ray.config import AugmentConfig, RecipeError, load_recipe
from s2v_ray.media.augment import AugmentParameters, apply_parameters, augment, draw_parameters

B, T, S = 4, 3, 32
ALL = AugmentConfig(flip=0.5, rotation=10, scale=0.1, shift=0.05, brightness=0.2, contrast=0.2, saturation=0.5)
KEY = (0, 7, 1)


def pictures(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, 3, S, S, generator=torch.Generator().manual_seed(seed)) * 2 - 1


OFF = {"shift": 0.0, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0}


def only(**limits: float) -> AugmentConfig:
    return AugmentConfig(**(OFF | limits))  # type: ignore[arg-type]


def test_without_augmentation_the_tensor_is_returned() -> None:
    frames = pictures(B, T)
    assert augment(frames, only(), KEY) is frames


@pytest.mark.parametrize(
    "config",
    [ALL, *(only(**{name: value}) for name, value in ALL.model_dump().items())],
    ids=["all", *ALL.model_dump()],
)
def test_all_frames_of_a_clip_have_the_same_parameters_and_clips_differ(config: AugmentConfig) -> None:
    one = pictures(1, 1)
    out = augment(one.expand(B, T, -1, -1, -1), config, KEY)
    assert out.shape == (B, T, 3, S, S) and out.abs().max() <= 1.0
    assert torch.equal(out, out[:, :1].expand_as(out))
    assert not torch.equal(out[:, 0], one[0].expand(B, -1, -1, -1))
    kinds = len({clip.numpy().tobytes() for clip in out})
    assert kinds == (2 if config == only(flip=0.5) else B)


def test_a_still_has_the_parameters_of_its_clip() -> None:
    frames = pictures(B, T)
    still = frames[:, 2]
    assert torch.equal(augment(still[:, None], ALL, KEY)[:, 0], augment(frames, ALL, KEY)[:, 2])


def test_parameters_depend_on_the_key_only() -> None:
    frames = pictures(B, T)
    state = torch.random.get_rng_state()
    first = augment(frames, ALL, KEY)
    torch.rand(5)
    assert torch.equal(augment(frames, ALL, KEY), first)
    for other in ((1, 7, 1), (0, 8, 1), (0, 7, 0)):
        assert not torch.equal(augment(frames, ALL, other), first)
    torch.random.set_rng_state(state)
    augment(frames, ALL, KEY)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_one_limit_does_not_change_other_parameters() -> None:
    alone, beside = draw_parameters(only(contrast=0.2), B, KEY).contrast, draw_parameters(ALL, B, KEY).contrast
    assert alone is not None and beside is not None and torch.equal(alone, beside)


def test_parameters_fill_their_limits() -> None:
    drawn = draw_parameters(ALL, 20_000, KEY)
    assert drawn.flip is not None and drawn.flip.float().mean().item() == pytest.approx(0.5, abs=0.02)
    limits = {
        "angle": (-10, 10),
        "scale": (0.9, 1.1),
        "shift": (-0.05, 0.05),
        "brightness": (-0.2, 0.2),
        "contrast": (0.8, 1.2),
        "saturation": (0.5, 1.5),
    }
    for name, (low, high) in limits.items():
        values = getattr(drawn, name)
        assert values.min().item() == pytest.approx(low, abs=0.01 * (high - low))
        assert values.max().item() == pytest.approx(high, abs=0.01 * (high - low))


def test_flip_is_torch_flip() -> None:
    frames = pictures(B, T)
    flipped = augment(frames, only(flip=1.0), KEY)
    assert torch.equal(flipped, frames.flip(-1))
    some = draw_parameters(only(flip=0.5), B, KEY).flip
    assert some is not None and 0 < some.sum() < B
    out = augment(frames, only(flip=0.5), KEY)
    assert torch.equal(out[some], frames.flip(-1)[some]) and torch.equal(out[~some], frames[~some])


def test_a_quarter_turn_is_clockwise_about_the_middle() -> None:
    frames = pictures(1, T)
    turned = apply_parameters(frames, AugmentParameters(angle=torch.tensor([90.0])))
    torch.testing.assert_close(turned, torch.rot90(frames, -1, (-2, -1)), atol=1e-4, rtol=0)


def test_shift_moves_right_and_down_and_repeats_the_edge() -> None:
    frames = pictures(1, T)
    moved = apply_parameters(frames, AugmentParameters(shift=torch.tensor([[2 / S, 1 / S]])))
    torch.testing.assert_close(moved[..., 1:, 2:], frames[..., :-1, :-2], atol=1e-4, rtol=0)
    torch.testing.assert_close(moved[..., 1:, 0], frames[..., :-1, 0], atol=1e-4, rtol=0)


def test_rotation_and_scale_as_scipy_does_them() -> None:
    frames = pictures(1, 2)
    degrees, scale = 7.0, 1.2
    out = apply_parameters(frames, AugmentParameters(angle=torch.tensor([degrees]), scale=torch.tensor([scale])))
    a = np.deg2rad(degrees)
    # from a place (y, x) of the result, y down, to the place it came from: turned back and shrunk about the middle
    back = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]) / scale
    middle = np.full(2, (S - 1) / 2)
    for t in range(2):
        for c in range(3):
            expected = affine_transform(
                frames[0, t, c].double().numpy(), back, middle - back @ middle, order=1, mode="nearest"
            )
            np.testing.assert_allclose(out[0, t, c].numpy(), expected, atol=1e-4)


def test_colours_by_hand() -> None:
    grey = torch.zeros(1, 1, 3, S, S)  # 0.5 in [0, 1]
    assert apply_parameters(grey, AugmentParameters(brightness=torch.tensor([0.2]))).unique().tolist() == pytest.approx(
        [0.4]
    )
    assert apply_parameters(grey, AugmentParameters(contrast=torch.tensor([1.2]))).unique().tolist() == pytest.approx(
        [0.2]
    )
    assert apply_parameters(grey, AugmentParameters(brightness=torch.tensor([0.9]))).unique().tolist() == [1.0]
    red = torch.tensor([1.0, -1.0, -1.0])[None, None, :, None, None].expand(1, 1, 3, S, S)
    none = apply_parameters(red, AugmentParameters(saturation=torch.tensor([0.0])))[0, 0, :, 0, 0]
    assert none.tolist() == pytest.approx([2 * 0.299 - 1] * 3, abs=1e-3)  # luma of red (BT.601)
    half = apply_parameters(red, AugmentParameters(saturation=torch.tensor([0.5])))[0, 0, :, 0, 0]
    assert half.tolist() == pytest.approx([0.299, 0.299 - 1, 0.299 - 1], abs=1e-3)


def test_a_part_of_a_batch_has_the_parameters_of_its_place() -> None:
    frames = pictures(B, T)
    torch.testing.assert_close(augment(frames[2:], ALL, KEY, first=2), augment(frames, ALL, KEY)[2:])


def test_its_limits_are_checked() -> None:
    with pytest.raises(RecipeError, match=r"augment.rotation: .*less than or equal to 30"):
        load_recipe("debug", ["gan.discriminators.augment.rotation=90"])
