"""Measures the rows of clips: judges, metrics and curves, and their means over all clips."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from s2v_ray.clip import Clip, to_unit
from s2v_ray.config import Recipe
from s2v_ray.evaluation.results import MetricResult, RowResult, mean_interval
from s2v_ray.evaluation.rows import IMAGE_IDENTITY, REAL, ROWS
from s2v_ray.media.face import mouth_box
from s2v_ray.metrics.clip_metrics import METRICS, JudgeOutputs, MetricInput, judged_frames
from s2v_ray.metrics.emotion import clip_emotion
from s2v_ray.metrics.sync import peak, sync_distances
from s2v_ray.models.judges import Judges


@torch.inference_mode()
def judge_rows(judges: Judges, clip: Clip, frames: Mapping[str, np.ndarray]) -> dict[str, JudgeOutputs]:
    """Outputs of the judges for every row of a clip."""
    speech = None
    if judges.sync is not None and len(clip.frames) >= judges.sync.window:
        speech = judges.sync.embed_speech(torch.from_numpy(clip.speech)[None])[0]
    use_mouth = clip.mouth_opening is not None
    return {row: _judge(judges, shown, speech, use_mouth=use_mouth) for row, shown in frames.items()}


def _judge(judges: Judges, frames: np.ndarray, speech: Tensor | None, *, use_mouth: bool) -> JudgeOutputs:
    """Outputs of the judges for the frames of one row; ``speech`` is the sync judge's embedding ``[N, D]``."""
    few = judged_frames(frames)
    distances = None
    if judges.sync and speech is not None:
        shown = judges.sync.embed_frames(to_unit(torch.from_numpy(frames))[None])[0]
        distances = sync_distances(speech.numpy(), shown.numpy())
    return JudgeOutputs(
        identity=judges.identity(few) if judges.identity else None,
        emotion=clip_emotion(judges.emotion(few), judges.emotion.labels) if judges.emotion else None,
        mouth_opening=judges.mouth(frames)[:, 0].numpy() if judges.mouth and use_mouth else None,
        sync_distances=distances,
    )


@dataclass
class Measurements:
    """Values and curves of all clips.

    Attributes:
        values: row -> metric -> one value for each clip.
        curves: row -> "mouth" or "sync" -> one curve over lags or offsets for each clip.
    """

    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    curves: dict[str, dict[str, list[np.ndarray]]] = field(default_factory=dict)

    def add(
        self, clip: Clip, frames: Mapping[str, np.ndarray], judged: Mapping[str, JudgeOutputs], emotion: str | None
    ) -> None:
        """Measures all rows of a clip with all metrics.

        Args:
            clip: the real clip.
            frames: row -> frames.
            judged: row -> outputs of the judges.
            emotion: true emotion of the clip, or None if it is not known.
        """
        mouth = mouth_box(clip.frames.shape[1])
        for row, shown in frames.items():
            values = self.values.setdefault(row, {})
            curves = self.curves.setdefault(row, {})
            inputs = MetricInput(
                shown, clip.frames, clip.speech, mouth, judged[row], judged[REAL], emotion, clip.mouth_opening
            )
            for name, entry in METRICS.items():
                if (value := entry.compute(inputs)) is not None:
                    values.setdefault(name, []).append(value)
            if inputs.mouth_curve is not None:
                curves.setdefault("mouth", []).append(inputs.mouth_curve)
            if inputs.judged.sync_distances is not None:
                curves.setdefault("sync", []).append(-inputs.judged.sync_distances)

    def summarise(self, recipe: Recipe) -> dict[str, RowResult]:
        """The result of every row. A missing reference baseline is shown as the row ``IMAGE_IDENTITY``, with a note."""
        return {row: self._summarise_row(row, row if row in self.values else IMAGE_IDENTITY, recipe) for row in ROWS}

    def _summarise_row(self, row: str, source: str, recipe: Recipe) -> RowResult:
        lags = {
            name: peak(np.ma.masked_invalid(np.stack(curves)).mean(axis=0).filled(np.nan))
            for name, curves in self.curves.get(source, {}).items()
        }
        return RowResult(
            note="" if source == row else f"no reference bundle was given: this row repeats {source}",
            values={name: mean_interval(values, recipe) for name, values in self.values[source].items()},
            lags=lags,
        )


def describe_metrics() -> dict[str, MetricResult]:
    """Descriptions of all metrics."""
    return {
        name: MetricResult(name=m.name, better=m.better, unit=m.unit, digits=m.digits, about=m.about)
        for name, m in ((name, entry.metric) for name, entry in METRICS.items())
    }
