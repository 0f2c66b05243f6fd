"""Cross-modal distillation: two visual teachers train a speech network. Labels are used only to validate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from s2v_ray import shards, storage
from s2v_ray.clip import SpeechBatch
from s2v_ray.config import Recipe
from s2v_ray.losses.distillation import (
    Dependence,
    aggregate_emotion,
    cosine_distance,
    identity_contrast,
    softened_cross_entropy,
)
from s2v_ray.metrics.probe import linear_probe
from s2v_ray.models.bundle import save_bundle
from s2v_ray.models.student import Student, StudentOutput
from s2v_ray.models.teachers import load as load_teacher
from s2v_ray.provenance import describe_corpus
from s2v_ray.training.alarms import Alarm
from s2v_ray.training.collective import gather
from s2v_ray.training.engine import OptimizerConfig, check_finite
from s2v_ray.training.loggers import Sample
from s2v_ray.training.schedules import warmup_cosine
from s2v_ray.training.shares import Shares
from s2v_ray.training.tasks.context import TaskContext

CODE_MEMORY = 0.99
"""Decay of the running mean code of each emotion."""
RAMP = 0.3
"""Share of the steps over which the disentangling terms grow: untrained codes are independent of everything."""
BETAS = (0.9, 0.99)
BETWEEN_CLIPS = ("contrast", "emotion_in_identity", "identity_in_emotion")
"""Terms that compare clips with each other."""
ALARMS = (
    Alarm(
        "identity_collapse",
        ("identity_similarity", "identity_similarity_teacher"),
        lambda r: bool(
            r["identity_similarity"] > 0.95 and r["identity_similarity"] > r["identity_similarity_teacher"] + 0.1
        ),
        "the student predicts the same identity for every voice: raise distill.contrast, or lower "
        "distill.emotion_in_identity",
    ),
    Alarm(
        "emotion_collapse",
        ("emotion_majority", "emotion_majority_teacher"),
        lambda r: bool(r["emotion_majority"] > 0.98 and r["emotion_majority_teacher"] < 0.9),
        "the student predicts one emotion for every clip: raise distill.emotion, or lower distill.temperature or "
        "distill.identity_in_emotion",
    ),
)

Terms = dict[str, tuple[float, Tensor]]
"""Weight and value of the terms of a loss."""


@dataclass(frozen=True)
class ClipLabel:
    """Labels of a clip, for validation."""

    speaker: str
    sentence: str


@dataclass(frozen=True)
class Codes:
    """Outputs of the student and of its teachers for some clips, of one worker or of all.

    Attributes:
        identity: of the student, ``[B, D]``.
        emotion: the student's emotion codes, ``[B, E]``.
        emotion_logits: of the student, ``[B, K]``.
        teacher_identity: ``[B, D]``.
        teacher_emotion: logits, ``[B, K]``.
    """

    identity: Tensor
    emotion: Tensor
    emotion_logits: Tensor
    teacher_identity: Tensor
    teacher_emotion: Tensor

    @classmethod
    def of(cls, output: StudentOutput, batch: SpeechBatch) -> Codes:
        """Collect the codes of a worker's clips."""
        return cls(output.identity, output.emotion, output.emotion_logits, teacher_identity(batch), clip_emotion(batch))

    def of_all_workers(self, shares: Shares, part: int) -> Codes:
        """Gather the codes of a micro-batch from all workers, with one collective operation."""
        if len(shares.sizes) == 1:
            return self
        columns = list(vars(self).values())
        whole = shares.gathered(torch.cat(columns, dim=1), part)
        return Codes(*whole.split([column.shape[1] for column in columns], dim=1))

    @staticmethod
    def concatenate(parts: Sequence[Codes]) -> Codes:
        """Concatenate and detach the codes of all micro-batches."""
        columns = zip(*(vars(part).values() for part in parts), strict=True)
        return Codes(*(torch.cat(column).detach() for column in columns))


class DistillTask:
    """The step of distillation, and what the trainer needs around it.

    Args:
        context: recipe, engines and rank.
        student: the network to train.
        lineage: digests of the artifacts that the student is made from.
        labels: clip id -> labels of the validation split.
    """

    alarms = ALARMS
    diagnostics = frozenset(name for alarm in ALARMS for name in alarm.reads)
    note = ""

    def __init__(
        self,
        context: TaskContext,
        student: Student,
        lineage: dict[str, Any],
        labels: Mapping[str, ClipLabel] | None = None,
    ) -> None:
        self.recipe, self.rank, self.corpus = context.recipe, context.rank, context.corpus
        self.lineage, self.labels = lineage, labels or {}
        self.emotion_in_identity, self.identity_in_emotion = Dependence(), Dependence()
        self.shares: Shares | None = None
        config, parallel = self.recipe.distill, self.recipe.parallel
        student.spec_mask, student.perturb = config.spec_mask, config.perturb
        for p in [*student.content.parameters(), *student.content_out.parameters()]:
            p.requires_grad_(False)  # content is trained with the generator
        self.engine = context.make_engine(
            student,
            [{"params": [*student.identity.parameters(), *student.emotion.parameters()], "name": "student"}],
            OptimizerConfig(config.lr, BETAS, config.weight_decay),
            zero_stage=parallel.zero_generator,
            offload_param=parallel.offload_param,
        )
        self.sharded = {"student": self.engine}

    def step(self, batch: SpeechBatch, step: int) -> dict[str, Tensor | float]:
        """Update the student once."""
        config = self.recipe.distill
        self.engine.set_lr("student", warmup_cosine(step, config.steps, config.lr))
        self.engine.module.train()
        ramp = min(1.0, step / (RAMP * config.steps))
        micro_batches = batch.split(self.recipe.parallel.accumulate)
        self.shares = shares = Shares.of_workers([len(part.speech) for part in micro_batches], self.shares)
        codes, parts = [], []
        loss = total = torch.zeros((), device=batch.speech.device)
        for i, part in enumerate(micro_batches):
            output: StudentOutput = self.engine(part.speech, part.speech_mask, content=False)
            everyone = Codes.of(output, part).of_all_workers(shares, i)
            own, between = clip_terms(output, part, self.recipe), self._terms_between_clips(everyone, ramp)
            weights = dict.fromkeys(own, shares.weight(i)) | dict.fromkeys(between, shares.whole_weight(i))
            terms = own | between
            loss = sum((weights[name] * weight * term for name, (weight, term) in terms.items()), total.new_zeros(()))
            check_finite("student", {name: term for name, (_, term) in terms.items()}, self.engine)
            self.engine.backward(loss)
            total = total + loss.detach()
            codes.append(everyone)
            parts.append({name: term.detach() for name, (_, term) in terms.items()})
        self.engine.step()
        whole = Codes.concatenate(codes)
        self._update_emotion_codes(whole)
        return {"loss": total, **shares.mean(parts, BETWEEN_CLIPS)} | collapse_indicators(whole)

    def _terms_between_clips(self, codes: Codes, ramp: float) -> Terms:
        """Return the terms that compare clips with each other, computed from the codes of all workers."""
        config = self.recipe.distill
        emotion = codes.teacher_emotion.softmax(-1)
        return {
            "contrast": (
                config.contrast,
                identity_contrast(codes.identity, codes.teacher_identity, config.contrast_temperature),
            ),
            "emotion_in_identity": (
                ramp * config.emotion_in_identity,
                self.emotion_in_identity(codes.identity, emotion),
            ),
            "identity_in_emotion": (
                ramp * config.identity_in_emotion,
                self.identity_in_emotion(codes.emotion, codes.teacher_identity),
            ),
        }

    @torch.no_grad()
    def _update_emotion_codes(self, codes: Codes) -> None:
        """Update the running mean code of each emotion of the batch."""
        known: Tensor = self.engine.module.emotion_codes
        member = F.one_hot(codes.teacher_emotion.argmax(-1), len(known)).to(codes.emotion.dtype)
        count = member.sum(0).unsqueeze(1)
        mean = ((member.T @ codes.emotion) / count.clamp(min=1.0)).to(known.dtype)
        moved = torch.where(known.any(1, keepdim=True), CODE_MEMORY * known + (1 - CODE_MEMORY) * mean, mean)
        known.copy_(torch.where(count > 0, moved, known))

    @torch.no_grad()
    def validate(self, batches: Iterable[SpeechBatch]) -> dict[str, float]:
        """Measure agreement with the teachers and leaks between the codes (``metrics.VALIDATION``)."""
        student: Student = self.engine.module
        student.eval()
        parts = []
        for batch in batches:
            output = student(batch.speech, batch.speech_mask, content=False)
            target = clip_emotion(batch).argmax(-1)
            cosine = F.cosine_similarity(output.identity, teacher_identity(batch))
            agrees = (output.emotion_logits.argmax(-1) == target).float()
            columns = (output.identity, output.emotion, target, cosine, agrees)
            parts.append((batch.ids, *(x.float().cpu().numpy() for x in columns)))
        student.train()
        everyone = [part for worker in gather(parts) for part in worker]
        ids, identity, emotion, seen, cosines, agreement = (np.concatenate(x) for x in zip(*everyone, strict=True))
        figures = {"identity_cosine": float(cosines.mean()), "emotion_agreement": float(agreement.mean())}
        _, first = np.unique(ids, return_index=True)  # workers that share few clips use some of them twice
        return figures | self._leaks([str(ids[i]) for i in first], identity[first], emotion[first], seen[first])

    def _leaks(self, ids: list[str], identity: np.ndarray, emotion: np.ndarray, seen: np.ndarray) -> dict[str, float]:
        """Accuracies of linear probes for emotion on identity codes and for speakers on emotion codes."""
        labels = [self.labels.get(clip, ClipLabel("", clip)) for clip in ids]
        sentences = [label.sentence or clip for clip, label in zip(ids, labels, strict=True)]
        probes = {
            "leak_emotion": linear_probe(identity, [str(int(k)) for k in seen], sentences),
            "leak_identity": linear_probe(emotion, [label.speaker for label in labels], sentences),
        }
        return {name: probe.accuracy for name, probe in probes.items() if probe is not None}

    def samples(self, batch: SpeechBatch) -> list[Sample]:  # noqa: ARG002  # the student generates no frames
        """Return no samples."""
        return []

    def state(self) -> dict[str, Any]:
        """Return the mean emotion codes and the running covariances."""
        return {
            "emotion_codes": self.engine.module.emotion_codes.clone(),
            "emotion_in_identity": self.emotion_in_identity.covariance,
            "identity_in_emotion": self.identity_in_emotion.covariance,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what ``state`` returned, which was loaded to the CPU."""
        self.engine.module.emotion_codes.copy_(state["emotion_codes"])
        for name in ("emotion_in_identity", "identity_in_emotion"):
            covariance: Tensor | None = state[name]
            getattr(self, name).covariance = None if covariance is None else covariance.to(self.engine.device)

    def export(self, run: str, metrics: dict[str, float]) -> None:
        """Write the student's bundle."""
        with self.engine.gathered_parameters():
            if self.rank == 0:
                student = self.engine.module
                uri, about = storage.join(run, "bundle"), describe_corpus(self.corpus)
                save_bundle(uri, student, self.recipe, "student", self.lineage, metrics, about)


def clip_terms(output: StudentOutput, batch: SpeechBatch, recipe: Recipe) -> Terms:
    """Return the terms that compare each clip's codes with those of its teachers."""
    config = recipe.distill
    emotion, identity = clip_emotion(batch), teacher_identity(batch)
    return {
        "emotion": (config.emotion, softened_cross_entropy(output.emotion_logits, emotion, config.temperature)),
        "identity": (config.identity, cosine_distance(output.identity, identity)),
    }


@torch.no_grad()
def collapse_indicators(codes: Codes) -> dict[str, Tensor]:
    """Return the mean cosine between identities of different clips, and the share of the most frequent emotion.

    Both for the student's outputs and, as ``..._teacher``, for the teachers'.
    """

    def similarity(codes: Tensor) -> Tensor:
        n = len(codes)
        return ((codes @ codes.T).sum() - n) / max(n * (n - 1), 1)

    def majority(logits: Tensor) -> Tensor:
        return F.one_hot(logits.argmax(-1), logits.shape[-1]).float().mean(0).max()

    return {
        "identity_similarity": similarity(codes.identity.float()),
        "identity_similarity_teacher": similarity(codes.teacher_identity),
        "emotion_majority": majority(codes.emotion_logits),
        "emotion_majority_teacher": majority(codes.teacher_emotion),
    }


def make_task(context: TaskContext) -> DistillTask:
    """Make the task of a worker: a new student for the corpus's two teachers.

    Raises:
        ValueError: a student or the reference baseline was requested.
    """
    if context.student is not None or context.reference:
        raise ValueError("distillation trains a new student: it takes neither a student nor reference")
    corpus, recipe = context.corpus, context.recipe
    identity, emotion = (load_teacher(storage.join(corpus, "teachers", role)) for role in ("identity", "emotion"))
    student = Student(recipe.student, identity.dim, emotion.labels).to(context.device)
    lineage = {
        "corpus": shards.read_corpus_manifest(corpus).get("digest", ""),
        "teachers": {"identity": identity.digest, "emotion": emotion.digest},
        "config_digest": recipe.digest(),
    }
    columns = ["id", "speaker", "sentence"]
    rows = [row for uri in shards.shard_uris(corpus, "val") for row in shards.read_shard(uri, columns)]
    labels = {row["id"]: ClipLabel(row["speaker"], row["sentence"]) for row in rows}
    return DistillTask(context, student, lineage, labels)


def clip_emotion(batch: SpeechBatch) -> Tensor:
    """Return the emotion teacher's logits of each clip, ``[B, K]``."""
    assert batch.emotion is not None, "the stream must join the teachers' outputs"
    return aggregate_emotion(batch.emotion, batch.speech_mask)


def teacher_identity(batch: SpeechBatch) -> Tensor:
    """Return the identity teacher's codes, ``[B, D]``."""
    assert batch.identity is not None, "the stream must join the teachers' outputs"
    return batch.identity
