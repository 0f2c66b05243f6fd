"""The task of a face network: a teacher or judge that is trained on labelled stills of the corpus.

Teachers are trained on one half of the training clips, judges on the other, with another width and seed: a judge must
not share the errors of the teacher whose student it judges.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from s2v_ray.config import Recipe
from s2v_ray.models.face_card import Card
from s2v_ray.models.face_input import postprocess, preprocess
from s2v_ray.models.teachers import ConvFace, FaceNetwork
from s2v_ray.training.engine import EngineFactory, OptimizerConfig, check_finite
from s2v_ray.training.face_figures import classifier_figures, label_indices, leak_figures, mouth_figures
from s2v_ray.training.loggers import Sample
from s2v_ray.training.schedules import one_cycle
from s2v_ray.training.stills import Stills, augment_faces

MAX_SIDE = 64
"""Side of the input of a network, at most."""
MOUTH = (0.30, 0.56, 0.40)
"""The square that contains media.regions.mouth_box, with margin for a wide open mouth."""
COSINE_SCALE = 16.0
LABEL_SMOOTHING = 0.1
SHRINKAGE = 0.1
"""Shrinkage of the covariance within speakers towards a sphere."""
MIN_HELD_OUT = 20
"""With fewer held-out clips the figures are not significant; the other half of the training clips is added."""
WEIGHT_DECAY = 1e-2


@dataclass(frozen=True)
class FaceSpec:
    """A face network of a corpus.

    Attributes:
        place: folder in the corpus.
        role: "identity", "emotion" or "mouth".
        seed: added to the recipe's seed.
        half: half of the training clips that it is trained on.
        width: factor on ``teach.width``.
        card: card that is installed instead of training, or "".
        nuisance: label that its outputs should not carry, or "".
    """

    place: str
    role: str
    seed: int
    half: int
    width: float
    card: str = ""
    nuisance: str = ""

    @property
    def required(self) -> bool:
        """Whether training needs it: teachers, not judges."""
        return self.place.startswith("teachers/")


def face_specs(recipe: Recipe) -> list[FaceSpec]:
    """Return the face networks that a corpus needs."""
    named = recipe.teachers
    return [
        FaceSpec("teachers/identity", "identity", 0, 0, 1.0, named.identity, "emotion"),
        FaceSpec("teachers/emotion", "emotion", 1, 0, 1.0, named.emotion, "speaker"),
        FaceSpec("judges/identity", "identity", 1000, 1, 2 / 3, named.judge_identity, "emotion"),
        FaceSpec("judges/emotion", "emotion", 1001, 1, 2 / 3, named.judge_emotion, "speaker"),
        FaceSpec("judges/mouth", "mouth", 1002, 1, 2 / 3),
    ]


def labelled(spec: FaceSpec, stills: Stills) -> np.ndarray:
    """Return which clips ``[N]`` have the label that the network learns."""
    if spec.role != "mouth":
        return np.asarray(stills.labels(spec.role) != "")
    known = np.zeros(len(stills.half), bool)
    known[stills.clip[stills.opening.isfinite()].numpy()] = True
    return known


def missing_labels(spec: FaceSpec, stills: Stills) -> str:
    """Return why the corpus cannot train the network, or ""."""
    train = labelled(spec, stills) & (stills.half == spec.half)
    if spec.role == "mouth":
        return "" if train.any() else "no clip of the corpus knows its mouth opening"
    what = "speaker" if spec.role == "identity" else "emotion"
    names = sorted({str(name) for name in stills.labels(spec.role)[train]})
    if len(names) >= 2:
        return ""
    return f"the training clips name only the {what} {names[0]!r}" if names else f"the training clips name no {what}"


@dataclass
class StillsBatch:
    """Stills of a step.

    Attributes:
        at: int64 ``[B]``, indices of the stills.
        ids: empty: stills have no ids.
    """

    at: Tensor
    ids: list[str] = field(default_factory=list)

    def to(self, device: torch.device | str) -> StillsBatch:
        """Copy the batch to ``device``."""
        return StillsBatch(self.at.to(device), self.ids)


class FaceClassifier(nn.Module):
    """A face network with the class prototypes that identity is trained with."""

    def __init__(self, network: ConvFace, classes: int, dim: int) -> None:
        super().__init__()
        self.network = network
        self.prototypes = nn.Parameter(F.normalize(torch.randn(max(classes, 1), dim), dim=1))

    def forward(self, faces: Tensor) -> Tensor:
        """Return the network's outputs for prepared faces."""
        outputs: Tensor = self.network(faces)
        return outputs


class FaceTask:
    """Trains one face network on augmented stills, sampled evenly over its label and the nuisance label.

    Random draws use torch's global generator, which the caller seeds before the task is made.

    Args:
        spec: which network.
        stills: all stills of the corpus.
        recipe: the recipe.
        make_engine: makes the engine.

    Attributes:
        card: fields of the network's card.
        network: the finished network, after validation.
        figures: its figures, after validation.
    """

    alarms = ()
    diagnostics: frozenset[str] = frozenset()
    note = ""

    def __init__(self, spec: FaceSpec, stills: Stills, recipe: Recipe, make_engine: EngineFactory) -> None:
        self.spec, self.stills, self.config = spec, stills, recipe.teach
        self.usable = labelled(spec, stills)
        self.train = self.usable & (stills.half == spec.half)
        labels = sorted(set(stills.labels(spec.role)[self.train])) if spec.role != "mouth" else []
        self.labels = tuple(labels)
        self.card = self._card_fields()
        self.draft = Card(kind="conv", weights="draft", sha256="0" * 64, **self.card)
        self.classifier = FaceClassifier(
            ConvFace(self.card["channels"], self.card["dim"]), len(self.labels), self.card["dim"]
        )
        optimizer = OptimizerConfig(self.config.lr, weight_decay=WEIGHT_DECAY, fused=False)
        self.engine = make_engine(self.classifier, [{"params": list(self.classifier.parameters())}], optimizer)
        self.sharded = {"network": self.engine}
        self.target = label_indices(stills.labels(spec.role), self.labels)[stills.clip]
        self.network: ConvFace | None = None
        self.figures: dict[str, float] = {}

    def _card_fields(self) -> dict[str, Any]:
        spec = self.spec
        side = min(self.stills.frames.shape[1], MAX_SIDE)
        fields: dict[str, Any] = {
            "role": spec.role,
            "title": f"{spec.place} of `s2v teach`",
            "dim": {"identity": self.config.embedding, "emotion": len(self.labels), "mouth": 1}[spec.role],
            "labels": self.labels if spec.role == "emotion" else (),
            "channels": max(round(self.config.width * spec.width), 4),
            "height": side,
            "width": side,
            "mean": (127.5,),
            "scale": (127.5,),
            "alignment": "box",
        }
        if spec.role == "mouth":
            fields |= {"box": MOUTH, "height": max(side // 2, 16), "width": max(side // 2, 16)}
        return fields

    def batches(self, start: int) -> Iterator[StillsBatch]:
        """Yield the batches from step ``start`` on; the position is in the state of the random generator."""
        stills, spec = self.stills, self.spec
        others = stills.labels(spec.nuisance) if spec.nuisance else np.full(len(stills.half), "")
        nuisance = label_indices(others, tuple(sorted(set(others) - {""})))[stills.clip]
        pool = torch.from_numpy(np.flatnonzero(self.train[stills.clip.numpy()]))
        cells = torch.stack([self.target[pool], nuisance[pool]])
        _, cell, count = torch.unique(cells, dim=1, return_inverse=True, return_counts=True)
        weight = 1.0 / count[cell].double()
        for _ in range(start, self.config.steps):
            yield StillsBatch(pool[torch.multinomial(weight, self.config.batch, replacement=True)])

    def step(self, batch: StillsBatch, step: int) -> dict[str, Tensor | float]:
        """Update the network once."""
        lr, momentum = one_cycle(step, self.config.steps, self.config.lr)
        self.engine.set_lr(0, lr)
        self.engine.set_betas((momentum, 0.999))
        self.classifier.train()
        raw = self.engine(augment_faces(preprocess(self.stills.frames[batch.at], self.draft)))
        loss = self._loss(raw, batch.at)
        check_finite(self.spec.place, {"loss": loss}, self.engine)
        self.engine.backward(loss)
        self.engine.step()
        return {"loss": loss.detach()}

    def _loss(self, raw: Tensor, at: Tensor) -> Tensor:
        role = self.spec.role
        outputs = postprocess(raw, role)
        if role == "mouth":
            return F.smooth_l1_loss(outputs[:, 0], self.stills.opening[at], beta=0.1)
        if role == "identity":
            logits = COSINE_SCALE * outputs @ F.normalize(self.classifier.prototypes, dim=1).T
            return F.cross_entropy(logits, self.target[at])
        return F.cross_entropy(outputs, self.target[at], label_smoothing=LABEL_SMOOTHING)

    def validate(self, batches: Iterable[StillsBatch]) -> dict[str, float]:  # noqa: ARG002  # uses all held-out
        """Finish the network and measure it on clips it was not trained on.

        Raises:
            ArtifactError: it is at chance there.
        """
        network = copy.deepcopy(self.classifier.network).eval()
        if self.spec.role == "identity":
            self._whiten(network)
        outputs = FaceNetwork(self.draft, network)(self.stills.frames)
        self.figures = self._measure(outputs)
        self.network = network
        return self.figures

    @torch.no_grad()
    def _whiten(self, network: ConvFace) -> None:
        part = torch.from_numpy(self.train)[self.stills.clip]
        frames = self.stills.frames[part].split(self.config.batch)
        raw = torch.cat([network(preprocess(some, self.draft)) for some in frames])
        names = label_indices(self.stills.speaker, self.labels)
        whiten_within_speakers(network, raw, names[self.stills.clip[part]])

    def _measure(self, outputs: Tensor) -> dict[str, float]:
        spec, stills = self.spec, self.stills
        held_out = self.usable & (stills.half == -1)
        if held_out.sum() < MIN_HELD_OUT:
            held_out |= self.usable & (stills.half == 1 - spec.half)
        if spec.role == "mouth":
            return mouth_figures(spec.place, stills, outputs[:, 0], self.train, held_out)
        figures, codes = classifier_figures(spec.place, stills, spec.role, outputs, self.train, held_out, self.labels)
        other_half, val = stills.half == 1 - spec.half, stills.half == -1
        return figures | leak_figures(codes.numpy(), stills.labels(spec.nuisance), other_half, val)

    def samples(self, batch: StillsBatch) -> list[Sample]:  # noqa: ARG002  # generates no frames
        """Return no samples."""
        return []

    def state(self) -> dict[str, Any]:
        """Return nothing: the engine has all state."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore nothing."""

    def export(self, run: str, metrics: dict[str, float]) -> None:
        """Write nothing: networks are published together, when all are trained."""


@torch.no_grad()
def whiten_within_speakers(network: ConvFace, raw: Tensor, speaker: Tensor) -> None:
    """Fold Fisher's linear discriminant into the last layer, in place.

    Variation within a speaker (expression, mouth, pose) is whitened, and only the directions in which speakers differ
    are kept (Fisher 1936; for embeddings: WCCN, Hatch et al. 2006). Without it a linear probe finds emotion beside the
    speakers'
    directions: on 16 puppets (one seed, 80 unseen clips, chance 0.20) in 0.96 of the clips without this step and in
    0.21 with it. A penalty on the covariance of codes and emotions during training (after LEACE, Belrose et al. 2023)
    was tried and left
    out: 0.96 was measured with the penalty, 0.21 with it and without it.

    Args:
        network: the trained network.
        raw: float ``[N, D]``, its outputs for stills of the training clips, not normalised.
        speaker: int64 ``[N]``, from 0, each speaker at least once.
    """
    member = F.one_hot(speaker).double()
    raw = raw.double()
    centre = member.T @ raw / member.sum(0).unsqueeze(1)  # [speakers, D]
    within = raw - centre[speaker]
    scatter = within.T @ within / len(raw)
    ridge = SHRINKAGE * scatter.trace() / len(scatter) * torch.eye(len(scatter), dtype=scatter.dtype)
    whiten = torch.linalg.inv(torch.linalg.cholesky(scatter + ridge))
    middle = centre.mean(0)
    _, _, axes = torch.linalg.svd((centre - middle) @ whiten.T, full_matrices=False)
    axes = axes[: len(centre) - 1]  # as many directions as separate the speakers; fewer than D for a few speakers
    keep = axes.T @ axes @ whiten
    keep = keep * (raw.std() / ((raw - middle) @ keep.T).std().clamp(min=1e-12))  # keeps the scale of the outputs
    network.head.bias.copy_((keep @ (network.head.bias.double() - middle)).float())
    network.head.weight.copy_((keep @ network.head.weight.double()).float())
