"""What the GAN is measured by while it trains: the teachers and the sync expert, on windows of the validation split.

Checkpoints and trials of sweeps are ranked by these figures, so the judges, which the evaluation measures with, have no
part in them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from s2v_ray.clip import ClipBatch, to_pixels, to_unit
from s2v_ray.config import Recipe
from s2v_ray.metrics import image
from s2v_ray.metrics.emotion import clip_emotion
from s2v_ray.metrics.frechet import frechet_distance
from s2v_ray.metrics.identity import cosine_identity
from s2v_ray.metrics.sync import in_sync_confidence, sync_distances
from s2v_ray.models.judges import Judges
from s2v_ray.models.sync import WINDOW_SLACK
from s2v_ray.training.collective import gather

JUDGED_FRAMES = 4
"""Frames of a window, evenly spaced, that SSIM and the teachers look at."""


MEASURED = {"identity": "identity and realism", "emotion": "emotion", "sync": "sync"}
"""The roles of the networks that validation uses, and the metrics that each is for."""


def missing_note(networks: Judges) -> str:
    """The metrics that are left out because the corpus has no network for them, as a message; "" if there are none."""
    absent = [MEASURED[role] for role in networks.missing() if role in MEASURED]
    if not absent:
        return ""
    return f"validation leaves out {', '.join(absent)}: the corpus has no such network; `s2v teach` makes them"


def window_frames(recipe: Recipe) -> int:
    """Frames of a validation window of the GAN: enough for the sync expert to find a mouth's own place among others."""
    return max(recipe.gan.frames, min(recipe.gan.speech_frames, recipe.gan.sync.window + WINDOW_SLACK - 1))


@dataclass
class Figures:
    """Figures of each window, and the identity codes of real and generated frames."""

    networks: Judges
    values: dict[str, list[float]] = field(default_factory=dict)
    real: list[np.ndarray] = field(default_factory=list)
    made: list[np.ndarray] = field(default_factory=list)

    def add(self, batch: ClipBatch, speech: Tensor, fake: Tensor, mask: Tensor) -> None:
        """Measures one batch.

        Args:
            batch: real windows of T frames.
            speech: ``[B, T * 640]``: the speech under them.
            fake: ``[B, T, 3, S, S]`` in [-1, 1]: what was generated.
            mask: ``[S, S]``, 1 over the mouth.
        """
        error = (fake - to_unit(batch.frames)).abs()
        self._note("l1", error.mean((1, 2, 3, 4)))
        self._note("mouth_l1", (error * mask).mean((1, 2, 3, 4)) / mask.mean())
        shown = to_pixels(fake)
        if self.networks.sync is not None:
            speech_codes, mouth_codes = (
                self.networks.sync.embed_speech(speech).cpu().numpy(),
                self.networks.sync.embed_frames(to_unit(shown)).cpu().numpy(),
            )
            self._note(
                "sync",
                [in_sync_confidence(sync_distances(h, s)) for h, s in zip(speech_codes, mouth_codes, strict=True)],
            )
        few = np.unique(np.linspace(0, shown.shape[1] - 1, JUDGED_FRAMES).round().astype(int))
        for made, real in zip(shown.cpu(), batch.frames.cpu(), strict=True):
            self._note("psnr", [image.psnr(made.numpy(), real.numpy())])
            made, real = made[few], real[few]
            self._note("ssim", [image.ssim(made.numpy(), real.numpy())[0]])
            if self.networks.identity is not None:
                codes = self.networks.identity(made), self.networks.identity(real)
                self.made.append(codes[0].numpy())
                self.real.append(codes[1].numpy())
                self._note("identity", [cosine_identity(*codes)])
            if self.networks.emotion is not None:
                labels = self.networks.emotion.labels
                shown_emotion, real_emotion = (clip_emotion(self.networks.emotion(f), labels) for f in (made, real))
                self._note("emotion", [float(shown_emotion == real_emotion)])

    def _note(self, name: str, values: Tensor | Iterable[float]) -> None:
        self.values.setdefault(name, []).extend(values.tolist() if isinstance(values, Tensor) else values)

    def result(self) -> dict[str, float]:
        """Means over the windows of all workers, and realism. All workers call it. Names: ``metrics.VALIDATION``."""
        everyone = gather((self.values, self.real, self.made))
        found: dict[str, float] = {}
        for name in self.values:
            values = np.concatenate([np.asarray(theirs[name], np.float64) for theirs, _, _ in everyone])
            if np.isfinite(values).any():
                found[name] = float(values[np.isfinite(values)].mean())
        real, made = ([code for worker in everyone for code in worker[which]] for which in (1, 2))
        if real:
            found["realism"] = frechet_distance(np.concatenate(made), np.concatenate(real))
        return found
