"""What only a GPU can show. Run with ``make test ARGS="-m gpu"`` where there is one; elsewhere these are left out."""

from __future__ import annotations

import functools

import pytest
import torch
from torch.nn import functional as F

from s2v_ray.clip import ClipBatch, to_unit
from s2v_ray.config import Recipe, parse_recipe
from s2v_ray.models.speech2video import Speech2Video, TrainingInputs
from s2v_ray.training.data.decode import REFERENCES
from s2v_ray.training.engine import EngineConfig, has_bf16, make_engine
from s2v_ray.training.tasks.adversaries import Adversaries
from s2v_ray.training.tasks.context import TaskContext
from s2v_ray.training.tasks.gan import GanTask

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")]

EMOTIONS, IDENTITY, SIZE, FRAMES, SPEECH, BATCH = ("neutral", "happy"), 12, 32, 8, 12, 4


def recipe() -> Recipe:
    now = {"start": 0, "ramp": 0, "weight": 0.05}
    return parse_recipe(
        {
            "media": {"size": SIZE},
            "student": {"width": 16, "layers": 2, "emotion_dim": 4, "content_dim": 8},
            "gan": {
                "steps": 200,
                "batch": BATCH,
                "frames": FRAMES,
                "speech_frames": SPEECH,
                "generator": {"channels": [32, 24, 16, 8]},
                "discriminators": {"width": 8, "frame": now, "mouth": now, "sync": now, "emotion": now},
            },
            "parallel": {"gpu": True},
        }
    )


def batch() -> ClipBatch:
    torch.manual_seed(0)
    return ClipBatch(
        frames=torch.randint(0, 256, (BATCH, 1, 1, 1, 3), dtype=torch.uint8)
        .expand(-1, FRAMES, SIZE, SIZE, -1)
        .contiguous(),
        speech=0.1 * torch.randn(BATCH, SPEECH * 640),
        index=torch.arange(FRAMES).expand(BATCH, -1),
        consecutive=torch.ones(BATCH, dtype=torch.bool),
        speech_mask=torch.ones(BATCH, SPEECH, dtype=torch.bool),
        references=torch.zeros(BATCH, REFERENCES, SIZE, SIZE, 3, dtype=torch.uint8),
        identity=F.normalize(torch.randn(BATCH, IDENTITY), dim=-1),
        emotion=torch.randn(BATCH, SPEECH, len(EMOTIONS)),
    )


def test_forward_agrees_with_the_cpu() -> None:
    settings, data = recipe(), batch()
    model = Speech2Video(settings, IDENTITY, EMOTIONS).eval()
    config = settings.gan.generator
    inputs = TrainingInputs(
        data.speech,
        data.speech_mask,
        data.index,
        to_unit(data.frames),
        to_unit(data.references),
        sampled=torch.zeros(BATCH, dtype=torch.bool),
        white_take=torch.zeros(BATCH, config.take_dim),
        white_motion=torch.zeros(BATCH, FRAMES, config.motion_dim),
        noise=torch.zeros(BATCH, FRAMES, 1, *data.frames.shape[2:4]),
    )
    on_gpu = TrainingInputs(**{name: value.cuda() for name, value in vars(inputs).items()})
    with torch.no_grad():
        here, there = model(inputs).frames, model.cuda()(on_gpu).frames
    torch.testing.assert_close(there.cpu(), here, atol=1e-2, rtol=0.0)  # cuDNN may use TF32


@pytest.mark.parametrize("bf16", [False, True])
def test_the_gan_learns_on_the_gpu(bf16: bool) -> None:
    device = torch.device("cuda", 0)
    if bf16 and not has_bf16(device):
        pytest.skip("this GPU has no native bf16")
    settings, data = recipe(), batch().to(device)
    model = Speech2Video(settings, IDENTITY, EMOTIONS).to(device)
    adversaries = Adversaries(settings, IDENTITY, len(EMOTIONS)).to(device)
    engine = functools.partial(make_engine, config=EngineConfig(micro_batch=BATCH, bf16=bf16, grad_clip=1.0))
    task = GanTask(TaskContext(settings, "", engine, device), model, adversaries, {})
    losses = [float(task.step(data, step)["g_reconstruction"]) for step in range(120)]
    assert all(loss == loss for loss in losses)
    assert min(losses[-10:]) < 0.7 * losses[0]
