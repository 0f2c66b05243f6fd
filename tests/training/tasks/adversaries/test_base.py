import torch

from s2v_ray.config import AugmentConfig, DiscriminatorsConfig
from s2v_ray.training.tasks.adversaries import ADVERSARIES
from tests.helpers.adversaries import make_inputs


def test_every_adversary_of_the_table_has_a_schedule():
    assert {name for name, _ in DiscriminatorsConfig().schedules()} == set(ADVERSARIES)


def test_selected_frames():
    here = make_inputs()
    selected = here.select_frames(here.frames)
    torch.testing.assert_close(selected[2], here.frames[1, 7])
    torch.testing.assert_close(here.repeat_per_frame(here.identity)[2:], here.identity[1].expand(2, -1))


def test_real_and_generated_frames_get_the_same_augmentation():
    here, config = make_inputs(), AugmentConfig(flip=0.5, shift=0.1, brightness=0.2)
    twice = here.augmented_frames(here.frames, config)
    torch.testing.assert_close(here.augmented_frames(here.frames.clone(), config), twice)
    assert not torch.allclose(twice, here.select_frames(here.frames))
    assert not torch.allclose(
        make_inputs(frames=here.frames, key=(0, 2, 2)).augmented_frames(here.frames, config), twice
    )
