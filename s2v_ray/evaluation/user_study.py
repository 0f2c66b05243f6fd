"""The user study: its design, the making of its clips, and the trials of a participant.

    STUDY/manifest.json                        seed, trials, emotions, and for each item the file of each condition
    STUDY/clips/<name>.mp4                     names are random, so that they do not reveal the condition
    STUDY/answers/<participant>/<trial>.json   one file for each answer, written atomically

``serving.study`` presents the trials and stores the answers; ``study_report`` computes the statistics.
"""

from __future__ import annotations

import logging
import secrets
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from s2v_ray import shards, storage
from s2v_ray.clip import Clip
from s2v_ray.evaluation.evaluate import open_predictors
from s2v_ray.evaluation.rows import REFERENCE_OTHER, SPEECH
from s2v_ray.evaluation.takes import CorpusTakes
from s2v_ray.inference.predictor import Predictor
from s2v_ray.inference.request import GenerationRequest
from s2v_ray.logs import Progress, log_progress
from s2v_ray.media.timing import SAMPLES_PER_FRAME
from s2v_ray.media.video import SYNTHETIC, write_mp4

STUDY_SCHEMA = 3
"""Raised to 3 with attention checks."""
REAL = "real clip"
DEGRADED = "degraded clip"
"""The real clip at an eighth of its resolution: a participant who looks prefers the real one."""
CONDITIONS = (REAL, REFERENCE_OTHER, SPEECH)
"""Neither the reference baseline nor the bundle knows the take that is spoken, so they can be compared."""
DEGRADATION = 8
TrialKind = Literal["pair", "emotion", "check"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StudyDesign:
    """Size of a study.

    Attributes:
        split: split of the corpus that the items are taken from.
        clips: number of items. Each item is one clip in every condition.
        pairs: number of trials of each participant that compare two conditions.
        singles: number of trials of each participant that ask for the emotion of one clip.
        checks: number of trials of each participant that compare a real clip with its degraded copy.
        seed: seed of the choice of items, of the generated frames and of the order of trials.
    """

    split: str = "test"
    clips: int = 20
    pairs: int = 15
    singles: int = 15
    checks: int = 3
    seed: int = 0


@dataclass(frozen=True)
class StudyItem:
    """A clip of the corpus in every condition.

    Attributes:
        clip: id of the clip.
        speaker: its speaker.
        emotion: its emotion, or "".
        clips: condition -> name of its file.
    """

    clip: str
    speaker: str
    emotion: str
    clips: dict[str, str]


@dataclass(frozen=True)
class StudyPlan:
    """What a study consists of, as stored in its manifest.

    Attributes:
        seed: seed of the order of trials.
        pairs: number of trials that compare two conditions.
        singles: number of trials that ask for an emotion.
        checks: number of attention checks.
        emotions: emotions to choose from.
        items: the items.
    """

    seed: int
    pairs: int
    singles: int
    checks: int
    emotions: tuple[str, ...]
    items: tuple[StudyItem, ...]


@dataclass(frozen=True)
class Trial:
    """One question.

    Attributes:
        trial: index of the trial among those of the participant.
        kind: "pair" compares two conditions, "emotion" asks for the emotion of one clip, "check" compares a real clip
            with its degraded copy.
        item: index of the item.
        clips: conditions of the item, as shown from left to right.
    """

    trial: int
    kind: TrialKind
    item: int
    clips: tuple[str, ...]


def make_study(
    corpus: str, out: str, bundle: str, reference: str | None = None, design: StudyDesign | None = None
) -> dict[str, Any]:
    """Makes the clips of a study from held-out clips, and writes its manifest.

    Args:
        corpus: URI of the corpus.
        out: URI of the study.
        bundle: URI of the bundle that generates the condition "speech only".
        reference: URI of the reference baseline's bundle, or None for a study without that condition. It gets the first
            frame of another take of the speaker; clips without another take are no items then.
        design: size of the study; None for the default.

    Returns:
        The manifest.

    Raises:
        ArtifactError: there is no corpus or no bundle, or there is a study at ``out`` already.
        ValueError: a bundle is of the wrong kind, or no clip has another take for the reference baseline.
    """
    design = design or StudyDesign()
    if storage.exists(storage.join(out, storage.MANIFEST)):
        raise storage.ArtifactError(
            f"there is a study at {out} already, and its answers belong to its clips: choose another folder"
        )
    predictor, baseline = open_predictors(bundle, reference)
    predictors = {SPEECH: predictor} | ({REFERENCE_OTHER: baseline} if baseline else {})
    takes = CorpusTakes(corpus, design.seed)
    clips = [clip for clip in shards.read_clips(corpus, design.split) if not baseline or takes.of(clip, 1)]
    if not clips:
        raise ValueError(
            f"no clip of the split {design.split} of {corpus} has another take of its speaker, whose still the "
            "reference baseline needs: leave out --reference-bundle, or ingest more clips"
        )
    chosen = sorted(np.random.default_rng(design.seed).permutation(len(clips))[: design.clips])
    items = []
    for n, clip in enumerate(clips[i] for i in chosen):
        stills = {REFERENCE_OTHER: takes.of(clip, 1)[0].frames[0]} if baseline else {}
        files = _write_item(clip, out, predictors, stills, design.seed)
        items.append(StudyItem(clip.id, clip.speaker, clip.emotion, files))
        log_progress(
            logger, Progress("study", n + 1, len(chosen), "clips"), "study: %d of %d clips", n + 1, len(chosen)
        )
    emotions = sorted({item.emotion for item in items if item.emotion})
    singles = design.singles if len(emotions) > 1 else 0
    plan = StudyPlan(design.seed, design.pairs, singles, design.checks, tuple(emotions), tuple(items))
    parents = {"corpus": shards.read_corpus_manifest(corpus)["digest"]}
    parents |= {condition: opened.card["sha256"] for condition, opened in predictors.items()}
    digest = predictor.card["config_digest"]
    return storage.write_manifest(out, "study", STUDY_SCHEMA, config_digest=digest, parents=parents, **asdict(plan))


def read_plan(uri: str) -> StudyPlan:
    """The plan of the study at ``uri``.

    Raises:
        ArtifactError: there is no study.
    """
    manifest = storage.read_manifest(uri, "study", STUDY_SCHEMA)
    items = tuple(StudyItem(i["clip"], i["speaker"], i["emotion"], i["clips"]) for i in manifest["items"])
    numbers = {name: manifest[name] for name in ("seed", "pairs", "singles", "checks")}
    return StudyPlan(**numbers, emotions=tuple(manifest["emotions"]), items=items)


def trials_of(plan: StudyPlan, participant: str) -> list[Trial]:
    """The trials of a participant, in an order that depends on the study's seed and the participant only.

    The order is balanced: every pair of conditions and every single condition occurs equally often, to within one;
    each side of a pair shows each of its conditions equally often, to within one; items are repeated only when all
    have occurred.

    Args:
        plan: the plan of the study.
        participant: hexadecimal id of the participant.
    """
    rng = np.random.default_rng([plan.seed, int(participant, 16)])
    conditions = [c for c in CONDITIONS if c in plan.items[0].clips]
    kinds: list[tuple[TrialKind, list[tuple[str, ...]], int]] = [
        ("pair", list(combinations(conditions, 2)), plan.pairs),
        ("emotion", [(c,) for c in conditions], plan.singles),
        ("check", [(REAL, DEGRADED)], plan.checks),
    ]
    trials: list[Trial] = []
    for kind, shown, count in kinds:
        usable = [i for i, item in enumerate(plan.items) if kind != "emotion" or item.emotion]
        order, turned = rng.permutation(len(shown)), rng.integers(2, size=len(shown))
        items = _endless(usable, rng)
        for n in range(count if usable else 0):
            which, times = order[n % len(shown)], n // len(shown)
            clips = shown[which] if (times + turned[which]) % 2 else shown[which][::-1]
            trials.append(Trial(0, kind, next(items), clips))
    shuffled = (trials[i] for i in rng.permutation(len(trials)))
    return [Trial(n, trial.kind, trial.item, trial.clips) for n, trial in enumerate(shuffled)]


def _endless(items: Sequence[int], rng: np.random.Generator) -> Iterator[int]:
    """All items in random order, again and again."""
    while True:
        yield from rng.permutation(items).tolist()


def answers_uri(study: str) -> str:
    """The folder of all answers of a study."""
    return storage.join(study, "answers")


def clip_uri(study: str, name: str) -> str:
    """The file of a clip."""
    return storage.join(study, "clips", name)


def _write_item(
    clip: Clip, out: str, predictors: Mapping[str, Predictor], stills: Mapping[str, np.ndarray], seed: int
) -> dict[str, str]:
    """Writes a clip in every condition; returns condition -> name of the file. ``stills``: condition -> still."""
    shown = {REAL: clip.frames, DEGRADED: _degrade(clip.frames)}
    for condition, predictor in predictors.items():
        request = GenerationRequest(clip.speech, still=stills.get(condition), seed=seed)
        shown[condition] = np.concatenate(list(predictor.generate(request)))
    names = {}
    with tempfile.TemporaryDirectory(prefix="s2v-") as folder:
        path = Path(folder) / "part.mp4"
        for condition, frames in shown.items():
            names[condition] = f"{secrets.token_hex(8)}.mp4"
            speech = clip.speech[: len(frames) * SAMPLES_PER_FRAME]
            write_mp4(path, frames, speech, metadata=None if condition in (REAL, DEGRADED) else SYNTHETIC)
            storage.write_bytes(clip_uri(out, names[condition]), path.read_bytes())
    return names


def _degrade(frames: np.ndarray) -> np.ndarray:
    """Frames at an eighth of their resolution, uint8 ``[T, S, S, 3]``."""
    side = frames.shape[1]
    small = [cv2.resize(frame, (side // DEGRADATION,) * 2, interpolation=cv2.INTER_AREA) for frame in frames]
    return np.stack([cv2.resize(frame, (side, side), interpolation=cv2.INTER_LINEAR) for frame in small])
