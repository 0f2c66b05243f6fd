"""Cross-modal distillation: two teachers that see teach a student that hears. No label of the corpus is used but to validate."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from s2v_ray import shards, storage
from s2v_ray.clip import ClipBatch
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
from s2v_ray.training.collective import gather
from s2v_ray.training.engine.base import Engine, EngineFactory, check_finite, mean_over_parts
from s2v_ray.training.loggers import Sample
from s2v_ray.training.schedules import warmup_cosine

CODE_MEMORY = 0.99  # of the running mean code of each emotion
Labels = dict[str, tuple[str, str]]  # clip -> speaker and sentence
RAMP = (
    0.3  # share of the steps over which the disentangling term grows: codes that say nothing yet are independent, too
)


class DistillTask:
    """One step of distillation, and what the loop needs around it."""

    def __init__(
        self,
        recipe: Recipe,
        student: Student,
        make_engine: EngineFactory,
        rank: int,
        lineage: dict[str, Any],
        labels: Labels | None = None,
    ) -> None:
        self.labels, self.note = labels or {}, ""
        self.recipe, self.rank, self.lineage = recipe, rank, lineage
        self.emotion_in_identity, self.identity_in_emotion = Dependence(), Dependence()
        config = recipe.distill
        student.spec_mask, student.perturb = config.spec_mask, config.perturb
        trained = [*student.identity.parameters(), *student.emotion.parameters()]
        for p in [*student.content.parameters(), *student.content_out.parameters()]:
            p.requires_grad_(False)  # content is learnt with the generator
        groups = [{"params": trained, "name": "student"}]
        zero: dict[str, Any] = {
            "zero_stage": recipe.parallel.zero_generator,
            "offload_param": recipe.parallel.offload_param,
        }
        self.engine = make_engine(
            student, groups, lr=config.lr, betas=(0.9, 0.99), weight_decay=config.weight_decay, **zero
        )
        self.engines: dict[str, Engine] = {"student": self.engine}

    def step(self, batch: ClipBatch, step: int) -> dict[str, Tensor | float]:
        config = self.recipe.distill
        self.engine.set_lr("student", warmup_cosine(step, config.steps, config.lr))
        self.engine.module.train()
        ramp = min(1.0, step / (RAMP * config.steps))
        parts = batch.split(self.recipe.parallel.accumulate)
        codes, seen = [], []
        for part in parts:
            heard: StudentOutput = self.engine(part.speech, part.speech_mask, content=False)
            terms = distillation_terms(heard, part, self.recipe)
            terms |= {
                name: (ramp * weight, term) for name, (weight, term) in self._disentangling_terms(heard, part).items()
            }
            loss = sum((weight * term for weight, term in terms.values()), torch.zeros((), device=batch.speech.device))
            check_finite("student", {name: term for name, (_, term) in terms.items()}, self.engine)
            self.engine.backward(loss / len(parts))
            codes.append(heard)
            seen.append({"loss": loss.detach(), **{name: term.detach() for name, (_, term) in terms.items()}})
        self.engine.step()
        whole = StudentOutput.concatenate(codes)
        self._remember_codes(whole, batch)
        return mean_over_parts(seen) | _variety(whole, batch)

    def _disentangling_terms(self, heard: StudentOutput, batch: ClipBatch) -> dict[str, tuple[float, Tensor]]:
        config = self.recipe.distill
        return {
            "emotion_in_identity": (
                config.emotion_in_identity,
                self.emotion_in_identity(heard.identity, _clip_emotion(batch).softmax(-1)),
            ),
            "identity_in_emotion": (
                config.identity_in_emotion,
                self.identity_in_emotion(heard.emotion, _identity(batch)),
            ),
        }

    @torch.no_grad()
    def _remember_codes(self, heard: StudentOutput, batch: ClipBatch) -> None:
        student: Student = self.engine.module
        seen = _clip_emotion(batch).argmax(-1)
        for k in seen.unique().tolist():
            code = heard.emotion[seen == k].mean(0).float()
            known = bool(student.emotion_codes[k].any())
            student.emotion_codes[k] = (
                CODE_MEMORY * student.emotion_codes[k] + (1 - CODE_MEMORY) * code if known else code
            )

    @torch.no_grad()
    def validate(self, batches: Iterable[ClipBatch]) -> dict[str, float]:
        """How well the student hears what the teachers see, and what leaks between its codes (``metrics.VALIDATION``)."""
        student: Student = self.engine.module
        student.eval()
        parts = []
        for batch in batches:
            heard = student(batch.speech, batch.speech_mask, content=False)
            seen = _clip_emotion(batch).argmax(-1)
            cosine, agrees = (
                F.cosine_similarity(heard.identity, _identity(batch)),
                (heard.emotion_logits.argmax(-1) == seen).float(),
            )
            parts.append(
                (batch.ids, *(x.float().cpu().numpy() for x in (heard.identity, heard.emotion, seen, cosine, agrees)))
            )
        student.train()
        ids, identity, emotion, seen_emotion, cosines, agree = (
            np.concatenate(x) for x in zip(*(p for part in gather(parts) for p in part), strict=True)
        )
        figures = {"identity_cosine": float(cosines.mean()), "emotion_agreement": float(agree.mean())}
        _, first = np.unique(ids, return_index=True)  # workers that share few clips hear some of them twice
        labels = [self.labels.get(str(ids[i]), ("", str(ids[i]))) for i in first]
        sentences = [sentence or str(ids[i]) for i, (_, sentence) in zip(first, labels, strict=True)]
        leaks = {
            "leak_emotion": linear_probe(identity[first], [str(int(seen_emotion[i])) for i in first], sentences),
            "leak_identity": linear_probe(emotion[first], [speaker for speaker, _ in labels], sentences),
        }
        return figures | {name: probe.accuracy for name, probe in leaks.items() if probe is not None}

    def samples(self, batch: ClipBatch) -> list[Sample]:
        return []  # it draws nothing

    def state(self) -> dict[str, Any]:
        return {
            "emotion_codes": self.engine.module.emotion_codes.clone(),
            "emotion_in_identity": self.emotion_in_identity.covariance,
            "identity_in_emotion": self.identity_in_emotion.covariance,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.engine.module.emotion_codes.copy_(state["emotion_codes"])
        self.emotion_in_identity.covariance = state["emotion_in_identity"]
        self.identity_in_emotion.covariance = state["identity_in_emotion"]

    def export(self, run: str, metrics: dict[str, float]) -> None:
        with self.engine.gathered():
            if self.rank == 0:
                save_bundle(
                    storage.join(run, "bundle"), self.engine.module, self.recipe, "student", self.lineage, metrics
                )


def distillation_terms(heard: StudentOutput, batch: ClipBatch, recipe: Recipe) -> dict[str, tuple[float, Tensor]]:
    """Weight and value of each term of the student's loss."""
    config = recipe.distill
    seen_emotion, seen_identity = _clip_emotion(batch), _identity(batch)
    return {
        "emotion": (config.emotion, softened_cross_entropy(heard.emotion_logits, seen_emotion, config.temperature)),
        "identity": (config.identity, cosine_distance(heard.identity, seen_identity)),
        "contrast": (config.contrast, identity_contrast(heard.identity, seen_identity, config.contrast_temperature)),
    }


@torch.no_grad()
def _variety(heard: StudentOutput, batch: ClipBatch) -> dict[str, Tensor]:
    """How alike the clips of a batch are, heard and seen, for the alarms: mean cosine of two clips' identities, share of the commonest emotion."""

    def likeness(codes: Tensor) -> Tensor:
        n = len(codes)
        return ((codes @ codes.T).sum() - n) / max(n * (n - 1), 1)

    def majority(logits: Tensor) -> Tensor:
        return F.one_hot(logits.argmax(-1), logits.shape[-1]).float().mean(0).max()

    return {
        "identity_similarity": likeness(heard.identity.float()),
        "identity_similarity_teacher": likeness(_identity(batch)),
        "emotion_majority": majority(heard.emotion_logits),
        "emotion_majority_teacher": majority(_clip_emotion(batch)),
    }


def make_task(
    recipe: Recipe,
    corpus: str,
    *,
    student: str | None,
    reference: bool,
    make_engine: EngineFactory,
    device: torch.device,
    rank: int,
    world: int,
) -> DistillTask:
    """The task of a worker: a fresh student for the corpus's two teachers."""
    if student is not None or reference:
        raise ValueError("distillation starts from nothing: it takes neither a student nor reference")
    identity, emotion = (load_teacher(storage.join(corpus, "teachers", role)) for role in ("identity", "emotion"))
    model = Student(recipe.student, identity.dim, emotion.labels).to(device)
    lineage = {
        "corpus": shards.read_corpus_manifest(corpus).get("digest", ""),
        "teachers": {"identity": identity.digest, "emotion": emotion.digest},
        "config_digest": recipe.digest(),
    }
    columns = ["id", "speaker", "sentence"]
    rows = [row for uri in shards.shard_uris(corpus, "val") for row in shards.read_shard(uri, columns)]
    labels = {row["id"]: (row["speaker"], row["sentence"]) for row in rows}
    return DistillTask(recipe, model, make_engine, rank, lineage, labels)


def _clip_emotion(batch: ClipBatch) -> Tensor:
    assert batch.emotion is not None, "the stream must join the teachers' outputs"
    return aggregate_emotion(batch.emotion, batch.speech_mask)


def _identity(batch: ClipBatch) -> Tensor:
    assert batch.identity is not None, "the stream must join the teachers' outputs"
    return batch.identity
