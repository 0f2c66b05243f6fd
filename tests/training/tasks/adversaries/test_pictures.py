import pytest
import torch

from s2v_ray.config import AugmentConfig
from s2v_ray.losses.adversarial import hinge_discriminator
from s2v_ray.media.regions import mouth_box
from s2v_ray.training.tasks.adversaries import ADVERSARIES, AdversarySettings
from s2v_ray.training.tasks.adversaries.pictures import FrameAdversary, MotionAdversary, PictureAdversary
from tests.helpers.adversaries import EMOTIONS, IDENTITY, make_inputs
from tests.helpers.recipes import tiny_recipe

RECIPE = tiny_recipe(gan={"discriminators": {"width": 4, "frame": {"weight": 0.1, "features": 0.2}}})


def make(name: str) -> PictureAdversary:
    torch.manual_seed(0)
    schedule = RECIPE.gan.discriminators.frame
    adversary = ADVERSARIES[name](AdversarySettings(schedule, RECIPE.gan, 32, IDENTITY, EMOTIONS))
    assert isinstance(adversary, PictureAdversary)
    return adversary


@pytest.mark.parametrize("name", ["frame", "mouth"])
def test_losses_are_hinge_losses_of_the_selected_frames(name: str):
    adversary, here, fake = make(name), make_inputs(), torch.rand(2, 8, 3, 32, 32)
    adversary.augment = AugmentConfig(shift=0, brightness=0, contrast=0, saturation=0)
    y0, y1, x0, x1 = mouth_box(32) if name == "mouth" else (0, 32, 0, 32)

    def logits(frames: torch.Tensor) -> torch.Tensor:
        shown = here.select_frames(frames)[..., y0:y1, x0:x1]
        if isinstance(adversary, FrameAdversary):
            return adversary.network(shown, here.identity.repeat_interleave(2, 0))
        return adversary.network(shown)

    expected = hinge_discriminator(logits(here.frames), logits(fake))
    torch.testing.assert_close(adversary.discriminator_loss(here, fake), expected)
    torch.testing.assert_close(adversary.generator_loss(here, fake), -logits(fake).mean())
    torch.testing.assert_close(adversary.generator_terms(here, fake)["loss"], -logits(fake).mean())


def test_motion_is_judged_from_three_consecutive_frames():
    adversary, fake = make("motion"), torch.rand(2, 8, 3, 32, 32)
    assert isinstance(adversary, MotionAdversary)
    adversary.augment = AugmentConfig(shift=0, brightness=0, contrast=0, saturation=0)
    here = make_inputs(consecutive=torch.tensor([False, True]), paired=torch.tensor([False, True]))

    def logits(frames: torch.Tensor) -> torch.Tensor:
        return adversary.network(torch.stack([frames[1, t : t + 3].flatten(0, 1) for t in range(6)]))

    expected = hinge_discriminator(logits(here.frames), logits(fake))
    torch.testing.assert_close(adversary.discriminator_loss(here, fake), expected)
    terms = adversary.generator_terms(here, fake)
    torch.testing.assert_close(terms["loss"], -logits(fake).mean())
    assert terms["features"] > 0
    still = make_inputs(consecutive=torch.tensor([True, False]), paired=torch.tensor([False, True]))
    assert adversary.generator_terms(still, fake)["features"] == 0, "the clip that moves is not paired"


def test_motion_without_consecutive_frames_is_not_judged():
    adversary, here = make("motion"), make_inputs(consecutive=torch.tensor([False, False]))
    fake = torch.rand(2, 8, 3, 32, 32, requires_grad=True)
    losses = [adversary.discriminator_loss(here, fake), *adversary.generator_terms(here, fake).values()]
    assert len(losses) == 3 and all(loss == 0 and loss.requires_grad for loss in losses)
    losses[0].backward()
    gradients = [p.grad for p in adversary.network.parameters()]
    assert all(g is not None and g.eq(0).all() for g in gradients), "other workers reduce gradients of all parameters"


def test_features_are_matched_for_paired_clips_only():
    adversary, here = make("frame"), make_inputs()
    fake = here.frames.clone().requires_grad_(True)
    features = adversary.generator_terms(here, fake + 0.1 * torch.tensor([1.0, 0.0]).view(2, 1, 1, 1, 1))["features"]
    assert features > 0
    features.backward()
    assert fake.grad is not None and fake.grad[0].abs().max() > 0 and fake.grad[1].abs().max() == 0
    unpaired = make_inputs(paired=torch.tensor([False, False]))
    assert adversary.generator_terms(unpaired, fake)["features"] == 0


def test_a_real_frame_with_another_identity_counts_as_generated():
    adversary = make("frame")
    apart = torch.eye(IDENTITY)[:2]
    here, fake = make_inputs(identity=apart), torch.rand(2, 8, 3, 32, 32)
    terms = adversary.discriminator_terms(here, fake)
    torch.testing.assert_close(terms["loss"], adversary.discriminator_loss(here, fake))
    swapped = make_inputs(**vars(here) | {"identity": apart.flip(0)})
    as_generated = 1.0 + adversary.logits(adversary.features(here, here.frames)[-1], swapped)
    torch.testing.assert_close(terms["identity"], as_generated.relu().mean())
    alike = adversary.discriminator_terms(make_inputs(identity=apart[:1].expand(2, -1)), fake)
    assert alike["identity"] == 0, "the same identity is no negative"
    assert list(make("mouth").discriminator_terms(make_inputs(), fake)) == ["loss"]


def test_alarms_of_a_discriminator_at_chance_and_of_a_perfect_one():
    saturated, at_chance = FrameAdversary.alarms
    assert at_chance.is_triggered({"d_frame": 1.99, "g_frame": 0.0})
    assert not at_chance.is_triggered({"d_frame": 1.99}), "it does not take part yet"
    assert not at_chance.is_triggered({"d_frame": 1.5, "g_frame": 0.0})
    assert saturated.is_triggered({"d_frame": 0.01}) and not saturated.is_triggered({"d_frame": 0.5})
