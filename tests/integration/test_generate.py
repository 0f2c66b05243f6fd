"""`s2v generate` as a person runs it: one process, one core, file in, file out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import wave
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from s2v_ray.config import load_recipe
from s2v_ray.media.timing import SAMPLE_RATE
from s2v_ray.media.video import read_video
from s2v_ray.models.bundle import save_bundle
from s2v_ray.models.speech2video import Speech2Video

SECONDS = 20.0


@pytest.mark.slow
def test_one_core_generates_96_pixels_faster_than_real_time(tmp_path: Path) -> None:
    recipe = load_recipe("puppets")
    assert recipe.media.size == 96
    torch.manual_seed(0)
    save_bundle(
        str(tmp_path / "bundle"), Speech2Video(recipe, 128, ("neutral", "happy")), recipe, "speech2video", {}, {}
    )
    n = round(SECONDS * SAMPLE_RATE)
    sound = 0.01 * np.random.default_rng(0).standard_normal(n)
    clicks = np.arange(1, 20) * SAMPLE_RATE
    sound[clicks] = 0.9
    with wave.open(str(tmp_path / "in.wav"), "wb") as f:
        f.setnchannels(1)
        f.setsampwidth(2)
        f.setframerate(SAMPLE_RATE)
        f.writeframes((sound.clip(-1, 1) * 32767).astype("<i2").tobytes())

    arguments = ["generate", "--bundle", "bundle", "in.wav", "-o", "out.mp4", "--json", "out.json"]
    heavy = "{'ray', 'deepspeed', 'kornia', 'onnxruntime', 'sklearn', 'torchmetrics', 'pyarrow'}"
    script = (
        f"import sys; from s2v_ray.cli import main; code = main({arguments!r}); "
        f"print('HEAVY', *({heavy} & set(sys.modules))); sys.exit(code)"
    )
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": root}
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "HEAVY"

    result = json.loads((tmp_path / "out.json").read_text())["result"]
    assert (result["frames"], result["seconds"]) == (500, SECONDS)
    assert result["realtime_factor"] > 1.0

    video = read_video(tmp_path / "out.mp4")
    assert video.frames.shape == (500, 96, 96, 3)
    assert len(video.speech) == pytest.approx(n, abs=1024)
    found = [c - 800 + int(np.abs(video.speech[c - 800 : c + 800]).argmax()) for c in clicks]
    assert np.abs(np.array(found) - clicks).max() <= 16  # a millisecond
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert "synthetic" in container.metadata["comment"]
