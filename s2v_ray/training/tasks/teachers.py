"""Trains the small teachers and judges of a corpus on its labelled stills; networks that the recipe names come by card.

Teachers learn from one half of the training clips, judges from the other, with another width and seed: a judge must not
share its mistakes with the teacher whose student it judges.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import binomtest
from torch import Tensor, nn

from s2v_ray import shards, storage
from s2v_ray.config import Recipe, TeachConfig, digest
from s2v_ray.models.teachers import Card, ConvFace, FaceNetwork, finish, install_card, prepare, resolve_card, save_conv

FACE_SCHEMA = 1
MAX_STILLS_BYTES = 1 << 30  # stills held in memory, train and val together
STILLS_PER_CLIP = 16
MAX_SIDE = 64  # a network of this size sees no more
MOUTH = (0.30, 0.56, 0.40)  # the square that holds media.face.mouth_box with room for a wide open mouth
COSINE_SCALE = 16.0
LABEL_SMOOTHING = 0.1
SHRINKAGE = 0.1  # of the covariance within speakers towards a sphere
MIN_HELD_OUT = (
    20  # fewer clips cannot tell skill from luck; the half of the training clips that the network never saw is added
)

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """One network to be made: where it goes, and what sets it apart from the others."""

    place: str  # folder in the corpus
    role: str
    seed: int
    half: int  # of the training clips
    width: float  # times teach.width
    card: str = ""  # installed instead of trained
    nuisance: str = ""  # what its output must not tell

    @property
    def required(self) -> bool:
        return self.place.startswith("teachers/")


def jobs(recipe: Recipe) -> list[Job]:
    """The networks a corpus needs: one line each."""
    named = recipe.teachers
    return [
        Job("teachers/identity", "identity", 0, 0, 1.0, named.identity, "emotion"),
        Job("teachers/emotion", "emotion", 1, 0, 1.0, named.emotion, "speaker"),
        Job("judges/identity", "identity", 1000, 1, 2 / 3, named.judge_identity, "emotion"),
        Job("judges/emotion", "emotion", 1001, 1, 2 / 3, named.judge_emotion, "speaker"),
        Job("judges/mouth", "mouth", 1002, 1, 2 / 3),
    ]


@dataclass(frozen=True)
class Stills:
    """Stills of N clips, up to ``STILLS_PER_CLIP`` of each, spread evenly over it.

    Attributes:
        frames: uint8 ``[M, S, S, 3]``.
        clip: int64 ``[M]``, the clip of each still.
        opening: float32 ``[M]``, nan where the source does not know it.
        speaker: label of each clip ``[N]``, "" where unknown; ``emotion`` alike.
        half: int64 ``[N]``, 0 or 1: who may learn from the clip; -1 for nobody (val).
    """

    frames: Tensor
    clip: Tensor
    opening: Tensor
    speaker: np.ndarray
    emotion: np.ndarray
    half: np.ndarray

    def labels(self, kind: str) -> np.ndarray:
        return self.speaker if kind in ("speaker", "identity") else self.emotion


def teach(corpus: str, recipe: Recipe, progress: Progress = print) -> dict[str, Any]:
    """Makes the teachers and judges of a corpus: trains those that the recipe does not name as cards, installs the rest.

    Nothing is published before every face network is made.

    Returns:
        ``networks``: for each place, its digest and its figures on clips it never saw; ``skipped``: reasons; ``sync``; ``seconds``.

    Raises:
        ArtifactError: no corpus; labels missing that a teacher needs; a network at chance on unseen clips; a bad card.
    """
    from s2v_ray.training.tasks.sync import train_sync

    began = time.perf_counter()
    found = teach_faces(corpus, recipe, progress)
    found["sync"] = train_sync(corpus, recipe, "judge", progress)
    return {**found, "seconds": round(time.perf_counter() - began, 1)}


def teach_faces(corpus: str, recipe: Recipe, progress: Progress = print) -> dict[str, Any]:
    """``teach`` without the judge of lip sync."""
    manifest = shards.read_corpus_manifest(corpus)
    plan = jobs(recipe)
    stills = read_stills(corpus, recipe.seed)
    skipped: dict[str, str] = {}
    for job in plan:  # all that is missing is found before the training, not after it
        if job.card:
            resolve_card(job.card, recipe.teachers.weights)
        elif reason := _missing(job, stills):
            if job.required:
                raise storage.ArtifactError(
                    f"the {job.role} teacher cannot be trained: {reason}; name a card in teachers.{job.role}"
                )
            skipped[job.place] = reason
            progress(f"{job.place} skipped: {reason}")
    plan = [job for job in plan if job.place not in skipped]
    trained = {job.place: train_face(job, stills, recipe, progress) for job in plan if not job.card}
    networks: dict[str, dict[str, Any]] = {}
    for job in plan:
        uri = storage.join(corpus, job.place)
        figures: dict[str, float] = {}
        if job.card:
            network = install_card(job.card, recipe.teachers.weights, uri)
            progress(f"{job.place} installed: {network.card.title or job.card}")
        else:
            module, card, figures = trained[job.place]
            network = save_conv(uri, module, **card)
        networks[job.place] = {"made": network.card.kind, "digest": network.digest, **figures}
        parents = {"corpus": manifest.get("digest") or digest(manifest)}
        storage.write_manifest(
            uri,
            "face-network",
            FACE_SCHEMA,
            role=job.role,
            config_digest=recipe.digest(),
            parents=parents,
            **networks[job.place],
        )
    return {"networks": networks, "skipped": skipped}


def read_stills(corpus: str, seed: int = 0) -> Stills:
    """The labelled stills of train and val. Each (speaker, emotion) is halved between teachers and judges.

    Raises:
        ArtifactError: the train split is empty, or a shard is damaged.
    """
    found = [(uri, split) for split in ("train", "val") for uri in shards.shard_uris(corpus, split)]
    heads = [
        (row, split) for uri, split in found for row in shards.read_shard(uri, ["id", "speaker", "emotion", "size"])
    ]
    if not any(split == "train" for _, split in heads):
        raise storage.ArtifactError(f"{corpus} has no training clips to learn faces from")
    budget = MAX_STILLS_BYTES // (3 * max(row["size"] for row, _ in heads) ** 2)
    per_clip = int(np.clip(budget // len(heads), 1, STILLS_PER_CLIP))
    kept = set(np.random.default_rng(seed).permutation(len(heads))[:budget].tolist())
    frames: list[Tensor] = []
    clip: list[int] = []
    opening: list[float] = []
    known: list[tuple[dict[str, Any], str]] = []
    number = -1
    for uri, _ in found:
        for row in shards.read_shard(uri, ["frames", "mouth_opening"]):
            number += 1
            if number not in kept:
                continue
            at = np.unique(np.linspace(0, len(row["frames"]) - 1, per_clip + 2)[1:-1].round().astype(int))
            frames.append(torch.from_numpy(shards.decode_frames([row["frames"][i] for i in at])))
            clip += [len(known)] * len(at)
            truth = row["mouth_opening"]
            opening += [float("nan") if truth is None else truth[i] for i in at]
            known.append(heads[number])
    speaker, emotion = (np.array([row[key] for row, _ in known]) for key in ("speaker", "emotion"))
    train = np.array([split == "train" for _, split in known])
    order = sorted(np.flatnonzero(train), key=lambda i: (speaker[i], emotion[i], known[i][0]["id"]))
    half = np.full(len(known), -1)
    half[order] = np.arange(len(order)) % 2
    return Stills(torch.cat(frames), torch.tensor(clip), torch.tensor(opening), speaker, emotion, half)


def train_face(
    job: Job, stills: Stills, recipe: Recipe, progress: Progress = print
) -> tuple[ConvFace, dict[str, Any], dict[str, float]]:
    """Trains one network; returns it, the fields of its card, and its figures on clips it never saw.

    Raises:
        ArtifactError: it is at chance there.
    """
    began = time.perf_counter()
    config = recipe.teach
    state = torch.random.get_rng_state()
    torch.manual_seed(recipe.seed + job.seed)
    try:
        usable = _usable(job, stills)
        learn = usable & (stills.half == job.half)
        labels = tuple(sorted(set(stills.labels(job.role)[learn]))) if job.role != "mouth" else ()
        dim = {"identity": config.embedding, "emotion": len(labels), "mouth": 1}[job.role]
        side = min(stills.frames.shape[1], MAX_SIDE)
        card: dict[str, Any] = {
            "role": job.role, "title": f"{job.place} of `s2v teach`", "dim": dim, "labels": labels if job.role == "emotion" else (),
            "channels": max(round(config.width * job.width), 4), "height": side, "width": side, "mean": (127.5,), "scale": (127.5,), "alignment": "box",
        }  # fmt: skip
        if job.role == "mouth":
            card |= {"box": MOUTH, "height": max(side // 2, 16), "width": max(side // 2, 16)}
        network = ConvFace(card["channels"], dim)
        draft = Card(kind="conv", weights="draft", sha256="0" * 64, **card)
        _fit(network, draft, job, stills, learn, labels, config, progress)
        seer = FaceNetwork(draft, network.eval())
        if job.role == "identity":
            with torch.no_grad():
                part = torch.from_numpy(learn)[stills.clip]
                raw = torch.cat([network(prepare(some, draft)) for some in stills.frames[part].split(config.batch)])
                sharpen(network, raw, _numbers(stills.speaker, labels)[stills.clip[part]])
        outputs = seer(stills.frames)
    finally:
        torch.random.set_rng_state(state)
    held = usable & (stills.half == -1)
    if held.sum() < MIN_HELD_OUT:
        held |= usable & (stills.half == 1 - job.half)
    figures = _judge(job, stills, outputs, learn, held, labels)
    figures["seconds"] = round(time.perf_counter() - began, 1)
    progress(f"{job.place} trained: " + "  ".join(f"{k} {v:.3g}" for k, v in figures.items()))
    return network, card, figures


@torch.no_grad()
def sharpen(network: ConvFace, raw: Tensor, speaker: Tensor) -> None:
    """Folds Fisher's discriminant into the last layer: what varies within a speaker (expression, mouth, pose) is whitened, and only the
    directions in which speakers differ are kept (Fisher 1936; for embeddings Hatch et al. 2006, WCCN).

    Without it a linear probe reads traces of emotion beside the speakers' directions with ease. On 16 puppets (one seed, 80 unseen clips,
    chance 0.20) it found the emotion of 0.96 of them without this step and 0.21 with it. A penalty on the covariance of codes and emotions
    while training (after Belrose et al. 2023, LEACE) was tried and left out: the 0.96 is with the penalty, the 0.21 with it and without it.

    Args:
        network: changed in place.
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
    axes = axes[: len(centre) - 1]  # as many directions as can tell the speakers apart; fewer than D for a few speakers
    keep = axes.T @ axes @ whiten
    keep = keep * (raw.std() / ((raw - middle) @ keep.T).std().clamp(min=1e-12))  # numbers of the size they had
    network.head.bias.copy_((keep @ (network.head.bias.double() - middle)).float())
    network.head.weight.copy_((keep @ network.head.weight.double()).float())


def _usable(job: Job, stills: Stills) -> np.ndarray:
    """Which clips ``[N]`` say what the network is to learn."""
    if job.role != "mouth":
        return stills.labels(job.role) != ""
    known = np.zeros(len(stills.half), bool)
    known[stills.clip[stills.opening.isfinite()].numpy()] = True
    return known


def _missing(job: Job, stills: Stills) -> str:
    """Why the corpus cannot teach it, or ""."""
    learn = _usable(job, stills) & (stills.half == job.half)
    if job.role == "mouth":
        return "" if learn.any() else "no clip of the corpus knows its mouth opening"
    what = "speaker" if job.role == "identity" else "emotion"
    names = sorted({str(name) for name in stills.labels(job.role)[learn]})
    if len(names) >= 2:
        return ""
    return f"the training clips name only the {what} {names[0]!r}" if names else f"the training clips name no {what}"


def _numbers(labels: np.ndarray, names: tuple[str, ...]) -> Tensor:
    """int64: the place of each label among the names, -1 where it is none of them."""
    place = {name: i for i, name in enumerate(names)}
    return torch.tensor([place.get(label, -1) for label in labels])


def _fit(
    network: ConvFace,
    card: Card,
    job: Job,
    stills: Stills,
    learn: np.ndarray,
    labels: tuple[str, ...],
    config: TeachConfig,
    progress: Progress,
) -> None:
    """Trains in place, on augmented stills drawn evenly over what is to be told and what is not."""
    target = _numbers(stills.labels(job.role), labels)[stills.clip]
    others = stills.labels(job.nuisance) if job.nuisance else np.full(len(stills.half), "")
    nuisance = _numbers(others, tuple(sorted(set(others) - {""})))[stills.clip]
    pool = torch.from_numpy(np.flatnonzero(learn[stills.clip.numpy()]))
    _, cell, count = torch.unique(
        torch.stack([target[pool], nuisance[pool]]), dim=1, return_inverse=True, return_counts=True
    )
    weight = 1.0 / count[cell].double()
    prototypes = nn.Parameter(F.normalize(torch.randn(max(len(labels), 1), card.dim), dim=1))
    optimizer = torch.optim.AdamW([*network.parameters(), prototypes], lr=config.lr, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.lr, total_steps=config.steps)
    network.train()
    for step in range(config.steps):
        at = pool[torch.multinomial(weight, config.batch, replacement=True)]
        raw = network(augment(prepare(stills.frames[at], card)))
        if job.role == "mouth":
            loss = F.smooth_l1_loss(finish(raw, job.role)[:, 0], stills.opening[at], beta=0.1)
        else:
            codes = finish(raw, job.role)
            logits = COSINE_SCALE * codes @ F.normalize(prototypes, dim=1).T if job.role == "identity" else codes
            loss = F.cross_entropy(
                logits, target[at], label_smoothing=LABEL_SMOOTHING if job.role == "emotion" else 0.0
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % max(config.steps // 3, 1) == 0:
            progress(f"{job.place} {step + 1}/{config.steps}  loss {loss.item():.3f}")


def augment(faces: Tensor) -> Tensor:
    """``[N, C, H, W]`` in about [-1, 1]: each turned, sized and shifted a little, with other light and contrast, half of them blurred.

    Generated faces are soft, and landmarks are never exact: a judge must mind neither.
    """
    n = len(faces)
    turn, size = 0.05 * torch.randn(n), 1 + 0.04 * torch.randn(n)
    shift = 0.04 * torch.randn(n, 2)
    theta = torch.stack(
        [size * turn.cos(), -size * turn.sin(), shift[:, 0], size * turn.sin(), size * turn.cos(), shift[:, 1]], 1
    ).view(n, 2, 3)
    faces = F.grid_sample(
        faces, F.affine_grid(theta, list(faces.shape), align_corners=False), padding_mode="border", align_corners=False
    )
    soft = F.avg_pool2d(faces, 5, stride=1, padding=2, count_include_pad=False)
    faces = torch.lerp(faces, soft, (2 * torch.rand(n, 1, 1, 1) - 1).clamp(min=0))
    return faces * (1 + 0.1 * torch.randn(n, 1, 1, 1)) + 0.08 * torch.randn(n, 1, 1, 1)


def _judge(
    job: Job, stills: Stills, outputs: Tensor, learn: np.ndarray, held: np.ndarray, labels: tuple[str, ...]
) -> dict[str, float]:
    """Figures on clips the network never saw.

    Raises:
        ArtifactError: there are none, or it does no better there than one that does not look.
    """
    if not held.any():
        raise storage.ArtifactError(
            f"{job.place} cannot be tried: no labelled clip is left that it has not learnt from"
        )
    if job.role == "mouth":
        return _judge_mouth(job, stills, outputs[:, 0], learn, held)
    codes = _clip_means(outputs, stills.clip, len(held))
    truth = stills.labels(job.role)
    if job.role == "identity":
        right, chance = _nearest_speaker(codes, truth, learn, held)
    else:
        number = _numbers(truth, labels)
        held = held & (number.numpy() >= 0)
        right = (codes.argmax(1) == number).numpy()[held]
        chance = float(number[held].bincount().max() / held.sum()) if held.any() else 1.0
    if not len(right) or binomtest(int(right.sum()), len(right), min(chance, 1.0), alternative="greater").pvalue > 0.05:
        raise storage.ArtifactError(
            f"{job.place} is at chance on clips it never saw ({int(right.sum())} of {len(right)} right, chance {chance:.2f}): "
            "give teach.steps more, look at the labels, or name a card"
        )
    figures = {"accuracy": float(right.mean()), "chance": chance, "clips": float(len(right))}
    return figures | _leak(codes.numpy(), stills.labels(job.nuisance), stills.half == 1 - job.half, stills.half == -1)


def _judge_mouth(job: Job, stills: Stills, opening: Tensor, learn: np.ndarray, held: np.ndarray) -> dict[str, float]:
    at = held[stills.clip.numpy()] & stills.opening.isfinite().numpy()
    truth, said = stills.opening.numpy()[at], opening.numpy()[at]
    usual = np.nanmedian(stills.opening.numpy()[learn[stills.clip.numpy()]])
    mae, blind = float(np.abs(said - truth).mean()), float(np.abs(usual - truth).mean())
    if mae >= blind:
        raise storage.ArtifactError(
            f"{job.place} is at chance on clips it never saw (error {mae:.3f}, of a constant {blind:.3f}): give teach.steps more"
        )
    return {
        "mae": mae,
        "mae_of_constant": blind,
        "correlation": float(np.corrcoef(said, truth)[0, 1]),
        "clips": float(held.sum()),
    }


def _clip_means(outputs: Tensor, clip: Tensor, clips: int) -> Tensor:
    total = torch.zeros(clips, outputs.shape[1]).index_add_(0, clip, outputs)
    return total / clip.bincount(minlength=clips).clamp(min=1).unsqueeze(1)


def _nearest_speaker(
    codes: Tensor, speaker: np.ndarray, learn: np.ndarray, held: np.ndarray
) -> tuple[np.ndarray, float]:
    """Is the nearest centroid of all speakers the clip's own? Its own clip is left out of it, so that new speakers can be tried too."""
    names = tuple(sorted(set(speaker[learn | held])))
    number = _numbers(speaker, names)
    known = torch.from_numpy(learn | held)
    member = F.one_hot(number.clamp(min=0), len(names)).float() * known.unsqueeze(1)
    unit = F.normalize(codes, dim=1)
    sums = member.T @ unit  # [speakers, D]
    at = torch.from_numpy(held) & (
        member.sum(0)[number.clamp(min=0)] > 1
    )  # a speaker's only clip has nothing to be near to
    cosine = F.normalize(unit, dim=1) @ F.normalize(sums, dim=1).T
    own = F.normalize(sums[number.clamp(min=0)] - unit, dim=1)
    cosine[torch.arange(len(codes)), number.clamp(min=0)] = (unit * own).sum(1)
    return (cosine.argmax(1) == number)[at].numpy(), 1.0 / len(names)


def _leak(codes: np.ndarray, nuisance: np.ndarray, fit: np.ndarray, val: np.ndarray) -> dict[str, float]:
    """Accuracy on val of a linear probe for what the codes should not tell, fitted on other clips the network never learnt from.

    (Folds within val would mislead: where each speaker has one clip an emotion, a probe is taught to say any emotion but the right one.)
    {} where there are too few labels to try.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    fit = fit & (nuisance != "")
    val = val & np.isin(nuisance, nuisance[fit])
    if len(set(nuisance[fit])) < 2 or not val.any():
        return {}
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(codes[fit], nuisance[fit])
    _, count = np.unique(nuisance[val], return_counts=True)
    return {"leak": float(probe.score(codes[val], nuisance[val])), "leak_chance": float(count.max() / val.sum())}
