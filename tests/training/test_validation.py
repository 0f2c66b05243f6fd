"""The GAN's figures on windows whose likeness is known, with and without the corpus's networks."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch

from s2v_ray import storage
from s2v_ray.clip import ClipBatch, to_unit
from s2v_ray.config import load_recipe
from s2v_ray.metrics import VALIDATION
from s2v_ray.models.judges import Judges, open_validators
from s2v_ray.models.sync import SyncNetwork
from s2v_ray.models.teachers import ConvFace, save_conv
from s2v_ray.training.engine import EngineConfig
from s2v_ray.training.validation import Figures, missing_note, window_frames
from tests.helpers.plain_engine import make_plain_engine
from tests.helpers.tasks import IDENTITY, SIZE, make_batch, make_gan_task, task_recipe

FRAMES = 12
EVERYTHING = {"l1", "mouth_l1", "psnr", "ssim", "identity", "emotion", "sync", "realism"}


@pytest.fixture(scope="module")
def judges(tmp_path_factory: pytest.TempPathFactory) -> Judges:
    torch.manual_seed(0)
    uri, labels = str(tmp_path_factory.mktemp("corpus")), ("a", "b", "c")
    common = {"height": SIZE, "width": SIZE, "alignment": "box", "channels": 4}
    save_conv(storage.join(uri, "teachers", "identity"), ConvFace(4, 6), role="identity", dim=6, **common)
    save_conv(
        storage.join(uri, "teachers", "emotion"),
        ConvFace(4, 3),
        role="emotion",
        dim=3,
        labels=labels,
        **common,
    )
    found = open_validators(uri)
    assert (
        found.identity
        and found.emotion
        and missing_note(found) == "validation leaves out sync: the corpus has no such network; `s2v teach` makes them"
    )
    return Judges(found.identity, found.emotion, sync=SyncNetwork(4, 3, SIZE).requires_grad_(False))


def window(seed: int) -> ClipBatch:
    """Two clips of ``FRAMES`` frames, smooth, so that a little noise leaves them alike."""
    made = make_batch(0, seed)
    random = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 256, (2 * FRAMES, 3, 4, 4), generator=random).float()
    smooth = torch.nn.functional.interpolate(coarse, (SIZE, SIZE), mode="bilinear").round().to(torch.uint8)
    made.frames = smooth.movedim(1, -1).unflatten(0, (2, FRAMES))
    made.speech, made.speech_mask, made.index = (
        torch.rand(2, FRAMES * 640, generator=random),
        torch.ones(2, FRAMES, dtype=torch.bool),
        torch.arange(FRAMES).expand(2, -1),
    )
    return made


def measured(judges: Judges, noise: float) -> dict[str, float]:
    figures, mask = Figures(judges), torch.zeros(SIZE, SIZE)
    mask[SIZE // 2 :] = 1.0
    random = torch.Generator().manual_seed(9)
    for seed in (1, 2):
        real = window(seed)
        fake = to_unit(real.frames)
        figures.add(real, real.speech, fake + noise * torch.randn(fake.shape, generator=random), mask)
    return figures.result()


def test_the_same_frames_are_perfect_and_every_figure_falls_with_noise(judges: Judges) -> None:
    same, near, far = (measured(judges, noise) for noise in (0.0, 0.02, 0.5))
    assert set(same) == EVERYTHING - {"psnr"}  # infinite
    for name, value in {
        "l1": 0.0,
        "mouth_l1": 0.0,
        "ssim": 1.0,
        "identity": 1.0,
        "emotion": 1.0,
        "realism": 0.0,
    }.items():
        assert same[name] == pytest.approx(value, abs=1e-6), name
    assert set(near) == set(far) == EVERYTHING <= set(VALIDATION)
    assert (
        near["l1"] == pytest.approx(0.02 * (2 / torch.pi) ** 0.5, rel=0.05) == pytest.approx(near["mouth_l1"], rel=0.1)
    )
    assert near["psnr"] == pytest.approx(-20 * torch.log10(torch.tensor(0.01)).item(), abs=0.5)
    for name in EVERYTHING - {"sync", "emotion"}:
        better = (near[name] > far[name]) if VALIDATION[name].better == "higher" else (near[name] < far[name])
        assert better, name
    assert -2.0 < near["sync"] < 2.0


def test_without_judges_the_pictures_alone_are_measured() -> None:
    assert set(measured(Judges(), 0.1)) == {"l1", "mouth_l1", "psnr", "ssim"}


def test_the_gan_is_measured_by_its_average_and_is_left_as_it_was(judges: Judges) -> None:
    torch.manual_seed(0)
    task = make_gan_task(
        task_recipe(0), functools.partial(make_plain_engine, config=EngineConfig(micro_batch=2, grad_clip=1.0)), 0
    )
    task.judges = judges
    before = {name: value.clone() for name, value in task.generator.module.state_dict().items()}
    found = task.validate([window(1), window(2)])
    assert set(found) == EVERYTHING and found == task.validate([window(1), window(2)])
    for value in (piece.values for piece in task.average.pieces.values()):
        value.mul_(0.5)
    assert found["l1"] != task.validate([window(1), window(2)])["l1"]
    after = task.generator.module.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert task.student.identity_dim == IDENTITY


def test_a_window_is_long_enough_for_the_sync_judge(tmp_path: Path) -> None:
    assert window_frames(load_recipe("puppets")) == 20
    assert window_frames(load_recipe("full")) == 20
    assert window_frames(load_recipe("puppets", ["gan.speech_frames=8"])) == 8
