"""Measures a bundle on held-out speech, next to real footage, stills and the reference baseline (``rows.ROWS``).

OUT/results.json     see ``results.Results``
OUT/examples.npz     frames and speech of a few clips, from which ``report`` makes its images
OUT/manifest.json
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from s2v_ray import shards, storage
from s2v_ray.clip import Clip
from s2v_ray.config import Recipe
from s2v_ray.evaluation import comparisons, examples
from s2v_ray.evaluation.bars import compare_with_bars
from s2v_ray.evaluation.comparisons import RealCodes
from s2v_ray.evaluation.confusion import force_emotions
from s2v_ray.evaluation.examples import ExampleWriter
from s2v_ray.evaluation.measuring import Measurements, describe_metrics, judge_rows
from s2v_ray.evaluation.results import EVALUATION_SCHEMA, ClipResults, Results, RowResult
from s2v_ray.evaluation.rows import REAL, ROWS, ClipRows, RowGenerator, missing_rows
from s2v_ray.evaluation.sample import read_sample
from s2v_ray.evaluation.student import student_figures
from s2v_ray.evaluation.takes import CorpusTakes
from s2v_ray.inference.predictor import Predictor
from s2v_ray.logs import Progress, log_progress
from s2v_ray.media.regions import mouth_box
from s2v_ray.metrics.appearance import take_variance
from s2v_ray.models import teachers
from s2v_ray.models.bundle import read_card
from s2v_ray.models.judges import Judges, open_judges, open_landmarks

logger = logging.getLogger(__name__)


def evaluate(
    corpus: str, out_uri: str, bundle_uri: str, recipe: Recipe, reference_bundle: str | None = None
) -> Results:
    """Evaluates a speech2video bundle on at most ``recipe.evaluate.max_clips`` clips of ``recipe.evaluate.split``.

    Args:
        corpus: URI of the corpus.
        out_uri: URI of the folder for the results.
        bundle_uri: URI of the bundle.
        recipe: recipe; its section ``evaluate`` and its seed are used.
        reference_bundle: URI of the reference baseline's bundle. Without it, the rows of the reference baseline are
            missing, with a note.

    Returns:
        The contents of ``results.json``.

    Raises:
        ArtifactError: corpus or bundle cannot be read, the target cannot be written, or the split is empty.
        ValueError: bundle and corpus do not match.
    """
    manifest = shards.read_corpus_manifest(corpus)
    storage.check_writable(out_uri)
    predictor, reference = open_predictors(bundle_uri, reference_bundle)
    teacher, judges = teachers.load(storage.join(corpus, "teachers", "identity")), _open_all_judges(corpus, recipe)
    clips = read_sample(corpus, recipe.evaluate.split, recipe.evaluate.max_clips, recipe.seed)
    size = clips[0].frames.shape[1]
    for opened in filter(None, (predictor, reference)):
        if opened.size != size:
            raise ValueError(
                f"the bundle generates frames of {opened.size} pixels, the corpus {corpus} has {size}: "
                "use a bundle that was trained on frames of this size"
            )

    takes, best_of = CorpusTakes(corpus, recipe.seed), recipe.evaluate.best_of
    rows = RowGenerator(predictor, reference, teacher, recipe.seed, takes, best_of)
    found, stored_examples = evaluate_clips(clips, rows, judges, recipe)
    logger.info("evaluate: figures of the student")
    student = student_figures(corpus, predictor, recipe)
    results = Results(
        **found,
        student=student,
        schema=EVALUATION_SCHEMA,
        corpus=corpus,
        bundle=bundle_uri,
        reference_bundle=reference_bundle,
        recipe=recipe.name,
        config_digest=recipe.digest(),
        split=recipe.evaluate.split,
        protocol=recipe.evaluate.protocol,
        bars=compare_with_bars(found, student, recipe.evaluate.protocol),
    )
    storage.write_bytes(storage.join(out_uri, examples.FILE), stored_examples)
    storage.write_json(storage.join(out_uri, "results.json"), results)
    parents = {
        "corpus": manifest.get("digest") or manifest.get("config_digest"),
        "bundle": read_card(bundle_uri)["weights"]["sha256"][:16],
    }
    storage.write_manifest(out_uri, "evaluation", EVALUATION_SCHEMA, config_digest=recipe.digest(), parents=parents)
    return results


def _open_all_judges(corpus: str, recipe: Recipe) -> Judges:
    """The judges of a corpus, and the landmarks that the recipe names."""
    landmarks = open_landmarks(recipe.evaluate.landmarks, recipe.ingest.detector)
    return open_judges(corpus, landmarks=landmarks)


def open_predictors(bundle_uri: str, reference_bundle: str | None) -> tuple[Predictor, Predictor | None]:
    """Loads a bundle and, if it is given, a reference baseline.

    Raises:
        ArtifactError: a bundle cannot be read.
        ValueError: ``bundle_uri`` is a reference baseline, or ``reference_bundle`` is not.
    """
    predictor = Predictor(bundle_uri)
    reference = Predictor(reference_bundle) if reference_bundle else None
    if predictor.reference or (reference and not reference.reference):
        raise ValueError(
            "--bundle takes a bundle that was trained from speech alone, "
            "--reference-bundle one that was trained with a still (s2v train --reference)"
        )
    return predictor, reference


def evaluate_clips(
    clips: Sequence[Clip], generator: RowGenerator, judges: Judges, recipe: Recipe
) -> tuple[ClipResults, bytes]:
    """Measures clips; returns their results and the bytes of ``examples.npz``.

    Raises:
        ValueError: generated frames have another number or size than their clip.
    """
    labels = judges.emotion.labels if judges.emotion else ()
    has_labels = any(clip.emotion in labels for clip in clips)
    measured, writer, variances, seconds = Measurements(), ExampleWriter(), _TakeVariances(), 0.0
    shown = set(np.linspace(0, len(clips) - 1, min(recipe.evaluate.contact_clips, len(clips))).round())
    for i, clip in enumerate(clips):
        made = generator.rows(clip)
        seconds += made.seconds
        judged = judge_rows(judges, clip, made.frames)
        label = clip.emotion if clip.emotion in labels else None
        measured.add(clip, made.frames, judged, label if has_labels else judged[REAL].emotion)
        variances.add(made)
        if i in shown:
            writer.add(clip, made.frames)
        log_progress(
            logger, Progress("evaluate", i + 1, len(clips), "clips"), "evaluate: %d of %d clips", i + 1, len(clips)
        )
    absent = missing_rows(measured.counts(), len(clips), has_reference=generator.reference is not None)
    rows = measured.summarise(recipe, absent)
    _add_kernel_distances(rows, measured, _real_codes(generator, clips, judges))
    results = ClipResults(
        clips=len(clips),
        speakers=len({clip.speaker for clip in clips}),
        best_of=generator.best_of,
        emotion_truth="labels of the corpus" if has_labels else "the emotion that the judge gives the real clip",
        missing_judges=judges.missing(),
        networks=judges.names(),
        notes=_notes(judges),
        metrics=describe_metrics() | comparisons.describe_kernel_distances(judges.names()),
        rows=rows,
        missing_rows={row: absent[row] for row in ROWS if row not in rows},
        differences=comparisons.paired_differences(measured, recipe),
        two_sample=comparisons.two_sample_tests(measured, recipe),
        diversity=comparisons.diversity_of(variances.sampled, variances.real, recipe),
        confusion=force_emotions(clips, generator.predictor, judges.emotion, recipe.seed, writer),
        frames_per_second=sum(len(clip.frames) for clip in clips) / seconds,
    )
    return results, writer.encode()


class _TakeVariances:
    """Variances between the sampled takes of each clip, and between real takes of its speaker."""

    def __init__(self) -> None:
        self.sampled: list[float] = []
        self.real: list[float] = []

    def add(self, made: ClipRows) -> None:
        """Adds a clip, if it has at least two of each."""
        if min(len(made.samples), len(made.takes)) < 2:
            return
        mouth = mouth_box(made.samples[0].shape[1])
        self.sampled.append(take_variance(made.samples, mouth))
        self.real.append(take_variance(made.takes, mouth))


def _real_codes(generator: RowGenerator, clips: Sequence[Clip], judges: Judges) -> RealCodes | None:
    if generator.takes is None:
        return None
    return comparisons.read_real_codes(generator.takes, clips, judges)


def _add_kernel_distances(rows: dict[str, RowResult], measured: Measurements, real: RealCodes | None) -> None:
    """Adds the kernel distances to the values of the rows."""
    for row, values in (comparisons.kernel_distances(measured, real) if real else {}).items():
        rows[row]["values"].update(values)


def _notes(judges: Judges) -> list[str]:
    """What was left out, or measured by brightness and not by a network."""
    points = judges.landmarks
    notes = []
    if points is None:
        notes.append(
            "landmark distance is left out: evaluate.landmarks names no card, and ingest.detector is not YuNet"
        )
    by_brightness = [
        *(["aperture", "head motion"] if points is None or not points.lips else []),
        *(["blinks"] if points is None or not points.eyelids else []),
    ]
    if by_brightness:
        notes.append(
            f"measured by brightness: {', '.join(by_brightness)}; a card (evaluate.landmarks) may name lips and eyelids"
        )
    return notes
