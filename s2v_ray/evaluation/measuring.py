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
from s2v_ray.evaluation.rows import REAL, ROWS
from s2v_ray.media.regions import mouth_box
from s2v_ray.media.timing import FPS
from s2v_ray.metrics.clip_metrics import METRICS, JudgeOutputs, MetricInput, judged_frames, judged_indices
from s2v_ray.metrics.emotion import clip_emotion
from s2v_ray.metrics.motion import signals_of_frames, with_landmarks
from s2v_ray.metrics.sync import peak, sync_distances
from s2v_ray.metrics.two_sample import frame_features
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
    logits = judges.emotion(few) if judges.emotion else None
    landmarks = None
    signals = signals_of_frames(frames, mouth_box(frames.shape[1]), FPS)
    if judges.landmarks and judges.landmarks.lips:
        points = judges.landmarks(frames)
        landmarks = points[judged_indices(len(frames))]
        signals = with_landmarks(signals, points, judges.landmarks.eyelids, judges.landmarks.lips)
    elif judges.landmarks:
        landmarks = judges.landmarks(few)
    return JudgeOutputs(
        identity=judges.identity(few) if judges.identity else None,
        emotion=clip_emotion(logits, judges.emotion.labels) if judges.emotion and logits is not None else None,
        mouth_opening=judges.mouth(frames)[:, 0].numpy() if judges.mouth and use_mouth else None,
        sync_distances=distances,
        emotion_logits=logits,
        landmarks=landmarks,
        signals=signals,
    )


@dataclass
class Measurements:
    """Values and curves of all clips. A row that a clip does not have has no entry for that clip.

    Attributes:
        speakers: speaker of each clip.
        values: row -> metric -> index of the clip -> value.
        curves: row -> "mouth" or "sync" -> one curve over lags or offsets for each clip.
        codes: row -> "identity" or "emotion" -> index of the clip -> the judge's outputs ``[N, D]``.
        features: row -> index of the clip -> features of the two-sample test ``[N, F]``.
    """

    speakers: list[str] = field(default_factory=list)
    values: dict[str, dict[str, dict[int, float]]] = field(default_factory=dict)
    curves: dict[str, dict[str, list[np.ndarray]]] = field(default_factory=dict)
    codes: dict[str, dict[str, dict[int, np.ndarray]]] = field(default_factory=dict)
    features: dict[str, dict[int, np.ndarray]] = field(default_factory=dict)

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
        index = len(self.speakers)
        self.speakers.append(clip.speaker)
        mouth = mouth_box(clip.frames.shape[1])
        for row, shown in frames.items():
            values = self.values.setdefault(row, {})
            inputs = MetricInput(
                shown, clip.frames, clip.speech, mouth, judged[row], judged[REAL], emotion, clip.mouth_opening
            )
            for name, entry in METRICS.items():
                if (value := entry.compute(inputs)) is not None:
                    values.setdefault(name, {})[index] = value
            self._keep(row, index, inputs)

    def array(self, row: str, metric: str) -> np.ndarray | None:
        """Values of a metric ``[clips]``, NaN for clips without the row; None if the row has no value of it."""
        found = self.values.get(row, {}).get(metric)
        if found is None:
            return None
        values = np.full(len(self.speakers), np.nan)
        values[list(found)] = list(found.values())
        return values

    def counts(self) -> dict[str, int]:
        """Row -> number of clips that have it."""
        return {row: len(features) for row, features in self.features.items()}

    def summarise(self, recipe: Recipe, notes: Mapping[str, str]) -> dict[str, RowResult]:
        """The result of every row that a clip has; ``notes``: row -> note."""
        return {row: self._summarise_row(row, recipe, notes.get(row, "")) for row in ROWS if row in self.values}

    def _keep(self, row: str, index: int, inputs: MetricInput) -> None:
        """Keeps what figures of several clips or rows are computed from."""
        curves, codes = self.curves.setdefault(row, {}), self.codes.setdefault(row, {})
        if inputs.mouth_curve is not None:
            curves.setdefault("mouth", []).append(inputs.mouth_curve)
        if inputs.judged.sync_distances is not None:
            curves.setdefault("sync", []).append(-inputs.judged.sync_distances)
        outputs = {"identity": inputs.judged.identity, "emotion": inputs.judged.emotion_logits}
        found = {role: output.numpy() for role, output in outputs.items() if output is not None}
        for role, output in found.items():
            codes.setdefault(role, {})[index] = output
        chosen = judged_indices(len(inputs.frames))
        self.features.setdefault(row, {})[index] = frame_features(inputs.frames, chosen, list(found.values()))

    def _summarise_row(self, row: str, recipe: Recipe, note: str) -> RowResult:
        lags = {
            name: peak(np.ma.masked_invalid(np.stack(curves)).mean(axis=0).filled(np.nan))
            for name, curves in self.curves.get(row, {}).items()
        }
        values = {name: mean_interval(list(found.values()), recipe) for name, found in self.values[row].items()}
        return RowResult(about=ROWS[row], note=note, values=values, lags=lags)


def describe_metrics() -> dict[str, MetricResult]:
    """Descriptions of all metrics of clips."""
    return {
        name: MetricResult(name=m.name, better=m.better, unit=m.unit, digits=m.digits, about=m.about)
        for name, m in ((name, entry.metric) for name, entry in METRICS.items())
    }
