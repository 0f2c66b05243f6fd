"""Measures a bundle on held-out speech of observed speakers, always beside real clips, the still frame and the reference.

Writes OUT/results.json (the returned mapping), OUT/examples.npz (frames and speech of a few clips, from which ``report``
makes pictures) and OUT/manifest.json.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from s2v_ray import shards, storage
from s2v_ray.clip import Clip, to_unit
from s2v_ray.config import Recipe
from s2v_ray.evaluation.bars import bars
from s2v_ray.evaluation.sample import read_sample
from s2v_ray.evaluation.student import Hearing, student_figures
from s2v_ray.inference.predictor import Predictor
from s2v_ray.inference.request import GenerationRequest
from s2v_ray.media.face import mouth_box
from s2v_ray.metrics import METRICS, bootstrap_mean, image
from s2v_ray.metrics.emotion import Contrast, emotion_contrast, verdict
from s2v_ray.metrics.identity import average_content_distance, cosine_identity
from s2v_ray.metrics.sync import cross_correlation, peak, sync_distances, sync_score
from s2v_ray.models import teachers
from s2v_ray.models.bundle import read_card
from s2v_ray.models.judges import FaceJudge, Judges, open_judges

EVALUATION_SCHEMA = 1
ROWS = ("real clips", "still frame", "reference baseline", "seen identity", "speech only")
JUDGED_FRAMES = 12
"""Frames of a clip, evenly spaced, on which identity, emotion and sharpness are judged; the rest is measured on all."""
CONTRAST_CLIPS = 4
"""Clips whose speech is generated with every emotion."""

Progress = Callable[[str], object]


class Talker(Hearing, Protocol):
    """What is asked of a predictor: ``serving.predictor.Predictor``, or anything like it."""

    def generate(self, request: GenerationRequest) -> Iterator[np.ndarray]: ...


@dataclass
class Reading:
    """What the judges read off one row of one clip."""

    identity: Tensor | None = None
    emotion: str | None = None
    opening: np.ndarray | None = None
    distances: np.ndarray | None = None


@dataclass
class Rows:
    """Figures of every clip by row: ``values[row][metric]`` is a list over clips, ``curves[row]`` of lags and offsets."""

    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    curves: dict[str, dict[str, list[np.ndarray]]] = field(default_factory=dict)

    def add(self, row: str, values: Mapping[str, float], curves: Mapping[str, np.ndarray]) -> None:
        for name, value in values.items():
            self.values.setdefault(row, {}).setdefault(name, []).append(value)
        for name, curve in curves.items():
            self.curves.setdefault(row, {}).setdefault(name, []).append(curve)


def evaluate(
    corpus: str,
    out_uri: str,
    bundle_uri: str,
    recipe: Recipe,
    reference_bundle: str | None = None,
    progress: Progress = print,
) -> dict[str, Any]:
    """Evaluates a speech2video bundle on at most ``recipe.evaluate.max_clips`` clips of ``recipe.evaluate.split``.

    Args:
        reference_bundle: the reference baseline's bundle. Without it the seen identity stands for that row, marked.

    Returns:
        what is in results.json. Keys are added over time, never renamed; a figure that does not apply is None.

        - ``schema``, ``corpus``, ``bundle``, ``reference_bundle``, ``recipe``, ``config_digest``, ``split``;
        - ``clips``, ``speakers``: how many were evaluated; ``missing_judges``: roles whose figures are absent;
          ``emotion_truth``: what ``emotion`` is measured against; ``frames_per_second``: generated, without reading and writing files;
        - ``metrics``: metric -> name, better ("higher", "lower", "one"), unit, digits, about (``metrics.METRICS``);
        - ``rows``: row (``ROWS``) -> ``note`` (not empty where another row stands for it), ``values`` (metric -> mean, low, high:
          95% bootstrap interval over clips, clips: how many had a value) and ``lags`` (``mouth``: frames by which the generated
          mouth comes late; ``sync``: frames by which the sound comes after the picture; each at the peak of the clips' mean curve);
        - ``student``: see ``student.student_figures``;
        - ``contrast``: see ``metrics.emotion.Contrast``; means over ``clips`` clips;
        - ``bars``: see ``bars.bars``.

    Raises:
        ArtifactError: corpus or bundle cannot be read, the target cannot be written, or the split is empty.
        ValueError: bundle and corpus do not fit each other.
    """
    manifest = shards.read_corpus_manifest(corpus)
    storage.check_writable(out_uri)
    predictor = Predictor(bundle_uri)
    reference = Predictor(reference_bundle) if reference_bundle else None
    if predictor.reference or (reference and not reference.reference):
        raise ValueError(
            "--bundle takes a bundle trained from speech alone, --reference-bundle one trained with a still (s2v train --reference)"
        )
    teacher = teachers.load(storage.join(corpus, "teachers", "identity"))
    judges = open_judges(corpus)
    clips = read_sample(corpus, recipe.evaluate.split, recipe.evaluate.max_clips, recipe.seed)
    for talker in filter(None, (predictor, reference)):
        if talker.size != clips[0].frames.shape[1]:
            raise ValueError(
                f"the bundle draws {talker.size} pixels, the corpus {corpus} has {clips[0].frames.shape[1]}: they must match"
            )

    results, examples = evaluate_clips(clips, predictor, reference, teacher, judges, recipe, progress)
    progress("evaluate: what the student hears")
    results["student"] = student_figures(corpus, predictor, recipe)
    results |= {
        "schema": EVALUATION_SCHEMA,
        "corpus": corpus,
        "bundle": bundle_uri,
        "reference_bundle": reference_bundle,
        "recipe": recipe.name,
        "config_digest": recipe.digest(),
        "split": recipe.evaluate.split,
        "bars": bars(results),
    }
    storage.write_bytes(storage.join(out_uri, "examples.npz"), examples)
    storage.write_json(storage.join(out_uri, "results.json"), results)
    parents = {
        "corpus": manifest.get("digest") or manifest.get("config_digest"),
        "bundle": read_card(bundle_uri)["weights"]["sha256"][:16],
    }
    storage.write_manifest(out_uri, "evaluation", EVALUATION_SCHEMA, config_digest=recipe.digest(), parents=parents)
    return results


def evaluate_clips(
    clips: Sequence[Clip],
    predictor: Talker,
    reference: Talker | None,
    teacher: FaceJudge,
    judges: Judges,
    recipe: Recipe,
    progress: Progress = print,
) -> tuple[dict[str, Any], bytes]:
    """Rows, contrast of emotions and speed over ``clips``; and examples for the pictures, as the bytes of an ``npz``.

    Raises:
        ValueError: what was generated is not as long or as large as the clip.
    """
    labels = judges.emotion.labels if judges.emotion else ()
    by_label = any(clip.emotion in labels for clip in clips)
    rows, shown, seconds = Rows(), Examples(), 0.0
    pictured = set(np.linspace(0, len(clips) - 1, min(recipe.evaluate.contact_clips, len(clips))).round())
    for i, clip in enumerate(clips):
        still = clip.frames[0]
        began = time.perf_counter()
        made = {"speech only": talk(predictor, clip, recipe.seed)}
        seconds += time.perf_counter() - began
        made["seen identity"] = talk(predictor, clip, recipe.seed, identity=teacher(still[None])[0])
        if reference:
            made["reference baseline"] = talk(reference, clip, recipe.seed, still=still)
        made |= {"still frame": np.repeat(still[None], len(clip.frames), axis=0), "real clips": clip.frames}
        speech = _embed_speech(judges, clip)
        readings = {row: read(judges, frames, speech, clip.mouth_opening is not None) for row, frames in made.items()}
        truth = (clip.emotion if clip.emotion in labels else None) if by_label else readings["real clips"].emotion
        for row, frames in made.items():
            rows.add(row, *measure(frames, clip, readings[row], readings["real clips"], truth))
        if i in pictured:
            shown.add(clip, made)
        if (i + 1) % max(1, len(clips) // 10) == 0 or i + 1 == len(clips):
            progress(f"evaluate: {i + 1} of {len(clips)} clips")
    contrast = contrast_emotions(clips, predictor, recipe.seed, shown, progress)
    frames_made = sum(len(clip.frames) for clip in clips)
    return {
        "clips": len(clips),
        "speakers": len({clip.speaker for clip in clips}),
        "emotion_truth": "labels of the corpus" if by_label else "the judge's verdict on the real clip",
        "missing_judges": judges.missing(),
        "metrics": {name: asdict(metric) for name, metric in METRICS.items()},
        "rows": summarise(rows, recipe),
        "contrast": contrast,
        "frames_per_second": frames_made / seconds,
    }, shown.encode()


def talk(predictor: Talker, clip: Clip, seed: int, **how: Any) -> np.ndarray:
    """What a predictor makes of a clip's speech, uint8 ``[T, H, W, 3]``.

    Raises:
        ValueError: it is not as long or as large as the clip.
    """
    frames = np.concatenate(list(predictor.generate(GenerationRequest(clip.speech, seed=seed, **how))))
    if frames.shape != clip.frames.shape:
        raise ValueError(
            f"clip {clip.id} is {clip.frames.shape}, the frames generated for it are {frames.shape}: bundle and corpus do not fit"
        )
    return frames


@torch.inference_mode()
def read(judges: Judges, frames: np.ndarray, speech: Tensor | None, opening: bool) -> Reading:
    """What the judges read off ``frames``; ``speech`` is the sync judge's embedding of the speech, ``[N, D]``."""
    few = _few(frames)
    reading = Reading()
    if judges.identity:
        reading.identity = judges.identity(few)
    if judges.emotion:
        reading.emotion = verdict(judges.emotion(few), judges.emotion.labels)
    if judges.mouth and opening:
        reading.opening = judges.mouth(frames)[:, 0].numpy()
    if judges.sync and speech is not None:
        shown = judges.sync.embed_frames(to_unit(torch.from_numpy(frames))[None])[0]
        reading.distances = sync_distances(speech.numpy(), shown.numpy())
    return reading


def measure(
    frames: np.ndarray, clip: Clip, reading: Reading, real: Reading, emotion: str | None
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Every metric of one row of one clip (NaN or absent where it does not apply), and its curves over lags and offsets.

    Args:
        real: the judges' reading of the real clip.
        emotion: what the emotion should be, or None.
    """
    mouth = mouth_box(frames.shape[1])
    ssim, ssim_mouth = image.ssim(frames, clip.frames, mouth)
    sharpness = np.array([image.cpbd(frame, mouth) for frame in _few(frames)])
    moved = image.movement(clip.frames, mouth)
    values = {
        "psnr": image.psnr(frames, clip.frames),
        "psnr_mouth": image.psnr(frames, clip.frames, mouth),
        "ssim": ssim,
        "ssim_mouth": ssim_mouth,
        "error_mouth": image.mean_error(frames, clip.frames, mouth),
        "cpbd": _mean(sharpness[:, 0]),
        "cpbd_mouth": _mean(sharpness[:, 1]),
        "movement_mouth": image.movement(frames, mouth) / moved if moved else float("nan"),
    }
    curves: dict[str, np.ndarray] = {}
    if reading.identity is not None and real.identity is not None:
        values["acd"] = average_content_distance(reading.identity, real.identity)
        values["csim"] = cosine_identity(reading.identity, real.identity)
    if reading.emotion is not None:
        values["emotion"] = float(reading.emotion == emotion) if emotion else float("nan")
    if reading.opening is not None and clip.mouth_opening is not None:
        curve = cross_correlation(reading.opening, clip.mouth_opening)
        curves["mouth"] = curve
        values["mouth_correlation"] = float(curve[len(curve) // 2])
        values["mouth_lag"] = _size(peak(curve))
    if reading.distances is not None:
        score = sync_score(reading.distances)
        curves["sync"] = -reading.distances
        values |= {"lse_c": score.confidence, "lse_d": score.distance, "sync_offset": _size(score.offset)}
    return values, curves


def summarise(rows: Rows, recipe: Recipe) -> dict[str, Any]:
    """Row -> ``note``, ``values`` (metric -> interval over clips) and ``lags`` (frames, where the mean curve peaks)."""
    table: dict[str, Any] = {}
    for row in ROWS:
        source = row if row in rows.values else "seen identity"
        values = {
            m: asdict(bootstrap_mean(v, recipe.evaluate.bootstrap, recipe.seed)) for m, v in rows.values[source].items()
        }
        lags = {
            name: peak(np.ma.masked_invalid(np.stack(curves)).mean(axis=0).filled(np.nan))
            for name, curves in rows.curves.get(source, {}).items()
        }
        table[row] = {
            "note": "" if source == row else f"no reference bundle was given: {source} stands for it",
            "values": values,
            "lags": lags,
        }
    return table


def contrast_emotions(
    clips: Sequence[Clip], predictor: Talker, seed: int, shown: Examples, progress: Progress
) -> dict[str, Any] | None:
    """The same speech with every emotion, for clips of different speakers; None for a bundle of one emotion."""
    if len(predictor.emotions) < 2:
        return None
    found: list[Contrast] = []
    for clip in list({clip.speaker: clip for clip in reversed(clips)}.values())[:CONTRAST_CLIPS]:
        made = {emotion: talk(predictor, clip, seed, emotion=emotion) for emotion in predictor.emotions}
        found.append(emotion_contrast(made, talk(predictor, clip, seed + 1, emotion=predictor.emotions[0])))
        shown.add_emotions(clip, made)
    progress(f"evaluate: {len(predictor.emotions)} emotions compared on {len(found)} clips")
    worst = min(found, key=lambda c: c.worst_share)
    means = {
        name: float(np.mean([getattr(c, name) for c in found]))
        for name in ("share", "difference", "noise", "threshold")
    }
    return means | {
        "worst_pair": list(worst.worst_pair),
        "worst_share": worst.worst_share,
        "clips": len(found),
        "emotions": list(predictor.emotions),
    }


class Examples:
    """Frames and speech of a few clips: what the pictures are made of. Stored as ``npz``: ``index`` (JSON), and arrays named in it."""

    def __init__(self) -> None:
        self.index: dict[str, list[dict[str, Any]]] = {"clips": [], "emotions": []}
        self.arrays: dict[str, np.ndarray] = {}

    def add(self, clip: Clip, made: Mapping[str, np.ndarray]) -> None:
        n = len(self.index["clips"])
        rows = {row: self._keep(f"clip{n}/{row}", frames) for row, frames in made.items() if row != "still frame"}
        speech = self._keep(f"clip{n}/speech", clip.speech)
        self.index["clips"].append(
            {
                "speaker": clip.speaker,
                "emotion": clip.emotion,
                "sentence": clip.sentence,
                "speech": speech,
                "rows": rows,
            }
        )

    def add_emotions(self, clip: Clip, made: Mapping[str, np.ndarray]) -> None:
        n = len(self.index["emotions"])
        rows = {emotion: self._keep(f"emotions{n}/{emotion}", frames) for emotion, frames in made.items()}
        self.index["emotions"].append({"speaker": clip.speaker, "sentence": clip.sentence, "rows": rows})

    def encode(self) -> bytes:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, index=np.array(json.dumps(self.index)), **self.arrays)  # type: ignore[arg-type]
        return buffer.getvalue()

    def _keep(self, name: str, values: np.ndarray) -> str:
        self.arrays[name] = values
        return name


@torch.inference_mode()
def _embed_speech(judges: Judges, clip: Clip) -> Tensor | None:
    if judges.sync is None or len(clip.frames) < judges.sync.window:
        return None
    return judges.sync.embed_speech(torch.from_numpy(clip.speech)[None])[0]


def _few(frames: np.ndarray) -> np.ndarray:
    return frames[np.linspace(0, len(frames) - 1, min(JUDGED_FRAMES, len(frames))).round().astype(int)]


def _mean(values: np.ndarray) -> float:
    kept = values[np.isfinite(values)]
    return float(kept.mean()) if len(kept) else float("nan")


def _size(offset: int | None) -> float:
    return float("nan") if offset is None else float(abs(offset))
