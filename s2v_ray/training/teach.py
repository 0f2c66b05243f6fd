"""Trains the teachers, judges and sync networks of a corpus with the one trainer, and publishes them in the corpus.

Each training is a run in CORPUS/teach/<network> with metrics and checkpoints. An interrupted `s2v teach` continues
there. When the networks are published, the checkpoints are removed.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from s2v_ray import shards, storage
from s2v_ray.config import LogConfig, Recipe, digest
from s2v_ray.models.sync import SYNC_SCHEMA, SyncRole, save_sync, sync_role_of
from s2v_ray.models.teachers import install_card, resolve_card, save_conv
from s2v_ray.training import lease
from s2v_ray.training.engine import EngineConfig, make_engine
from s2v_ray.training.stills import Stills, read_stills
from s2v_ray.training.tasks.sync import SyncSpec, SyncTask
from s2v_ray.training.tasks.teachers import FaceSpec, FaceTask, face_specs, missing_labels
from s2v_ray.training.trainer import DataSources, LoopConfig, Task, Trainer

logger = logging.getLogger(__name__)

FACE_SCHEMA = 1
TEACH_RUN_SCHEMA = 1
MAX_SYNC_CLIPS = 2000
"""Clips held in memory for a sync network; more add little to a network this small."""
CHECKPOINTS = 4
"""Checkpoints of a training that fits an hour."""


def teach(corpus: str, recipe: Recipe) -> dict[str, Any]:
    """Make the networks of a corpus: teachers, judges, and the sync expert if the GAN uses it.

    Networks that the recipe names by card are installed, the others are trained. Nothing is published before every face
    network is made.

    Returns:
        ``networks``: for each place, its digest and its figures on clips it was not trained on; ``skipped``: reasons;
            ``sync``;
        ``seconds``; ``sync_expert``.

    Raises:
        ArtifactError: there is no corpus, a teacher's labels are missing, a network is at chance, or a card cannot be
            used.
    """
    began = time.perf_counter()
    found = teach_faces(corpus, recipe)
    found["sync"] = train_sync(corpus, recipe, "judge")
    found["seconds"] = round(time.perf_counter() - began, 1)
    if recipe.gan.discriminators.sync.weight:
        found["sync_expert"] = train_sync(corpus, recipe, "expert")
    return found


def teach_faces(corpus: str, recipe: Recipe) -> dict[str, Any]:
    """Make the face networks of a corpus; returns ``networks`` and ``skipped``, errors as ``teach``."""
    manifest = shards.read_corpus_manifest(corpus)
    parents = {"corpus": manifest.get("digest") or digest(manifest)}
    stills = read_stills(corpus, recipe.seed)
    specs, skipped = _usable_specs(recipe, stills)
    trained = {spec.place: train_face(spec, stills, recipe, corpus) for spec in specs if not spec.card}
    networks: dict[str, dict[str, Any]] = {}
    for spec in specs:
        uri = storage.join(corpus, spec.place)
        if spec.card:
            network, figures = install_card(spec.card, recipe.teachers.weights, uri), {}
            logger.info("%s installed: %s", spec.place, network.card.title or spec.card)
        else:
            task = trained[spec.place]
            assert task.network is not None, "validation finishes the network"
            network, figures = save_conv(uri, task.network, **task.card), task.figures
        networks[spec.place] = {"made": network.card.kind, "digest": network.digest, **figures}
        fields = {"role": spec.role, "config_digest": recipe.digest(), "parents": parents, **networks[spec.place]}
        storage.write_manifest(uri, "face-network", FACE_SCHEMA, **fields)
    for place in trained:
        _remove_checkpoints(_run_uri(corpus, place))
    return {"networks": networks, "skipped": skipped}


def _usable_specs(recipe: Recipe, stills: Stills) -> tuple[list[FaceSpec], dict[str, str]]:
    """Return the networks that can be made, and the reasons for the others; raises before any training."""
    usable, skipped = [], {}
    for spec in face_specs(recipe):
        if spec.card:
            resolve_card(spec.card, recipe.teachers.weights)
        elif reason := missing_labels(spec, stills):
            if spec.required:
                raise storage.ArtifactError(
                    f"the {spec.role} teacher cannot be trained: {reason}; name a card in teachers.{spec.role}"
                )
            skipped[spec.place] = reason
            logger.warning("%s skipped: %s", spec.place, reason)
            continue
        usable.append(spec)
    return usable, skipped


def train_face(spec: FaceSpec, stills: Stills, recipe: Recipe, corpus: str) -> FaceTask:
    """Train one face network; its task has the network and its figures.

    Raises:
        ArtifactError: it is at chance on clips it was not trained on.
    """
    began = time.perf_counter()
    run = _open_run(corpus, spec.place, {"seed": recipe.seed, "teach": recipe.teach.model_dump(), "spec": vars(spec)})
    with _seeded(recipe.seed + spec.seed):
        task = FaceTask(spec, stills, recipe, functools.partial(make_engine, config=EngineConfig()))
        config = recipe.teach
        _train(task, task.batches, run, spec.place, steps=config.steps, batch=config.batch, log=recipe.log)
    task.figures["seconds"] = round(time.perf_counter() - began, 1)
    return task


def train_sync(corpus: str, recipe: Recipe, role: SyncRole) -> dict[str, Any]:
    """Train a sync network and publish it in the corpus.

    Expert and judge have different architectures, and each is trained on its half of the training clips.

    Returns:
        ``accuracy`` on the val split (chance 0.5), ``steps`` and ``uri``.

    Raises:
        ArtifactError: clips are too short, or the network is at chance.
    """
    spec = SyncSpec.of(role, recipe)
    train, held_out = (_long_clips(corpus, split, spec.frames) for split in ("train", "val"))
    train = [clip for clip in train if sync_role_of(clip.id) == role]
    if not train or not held_out:
        raise storage.ArtifactError(
            f"the sync {role} needs clips of at least {spec.frames} frames in its half of train and in val; {corpus} "
            f"has {len(train)} and {len(held_out)}: ingest more or longer clips, or lower gan.sync.window"
        )
    settings = {
        "schema": SYNC_SCHEMA,
        "spec": vars(spec),
        "sync": recipe.gan.sync.model_dump(),
        "size": recipe.media.size,
    }
    run = _open_run(corpus, f"sync-{role}", settings)
    with _seeded(spec.seed):
        task = SyncTask(spec, train, held_out, recipe, functools.partial(make_engine, config=EngineConfig()))
        batch = recipe.gan.sync.batch
        _train(task, task.batches, run, f"sync {role}", steps=spec.steps, batch=batch, log=recipe.log)
    uri = save_sync(
        corpus,
        role,
        task.network,
        width=spec.width,
        window=spec.window,
        size=recipe.media.size,
        accuracy=task.accuracy,
        seed=spec.seed,
        steps=spec.steps,
        config_digest=recipe.digest(),
    )
    _remove_checkpoints(run)
    return {"accuracy": task.accuracy, "steps": spec.steps, "uri": uri}


def _train(
    task: Task, batches: Callable[[int], Iterator[Any]], run: str, kind: str, *, steps: int, batch: int, log: LogConfig
) -> None:
    """Train in this process, with a checkpoint after every quarter of the steps."""
    log = log.model_copy(
        update={
            "validate_every": 0,
            "samples_every": 0,
            "checkpoint_every": max(1, steps // CHECKPOINTS),
            "keep_best": "",
        }
    )
    with lease.held(run) as token:
        loop = LoopConfig(run, token, kind, steps, batch, log, torch.device("cpu"))
        Trainer(task, DataSources(batches, validation=tuple), loop).run()


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generator, and restore its state afterwards."""
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    try:
        yield
    finally:
        torch.random.set_rng_state(state)


def _run_uri(corpus: str, name: str) -> str:
    return storage.join(corpus, "teach", name.replace("/", "-"))


def _open_run(corpus: str, name: str, settings: dict[str, Any]) -> str:
    """Return the run folder of a network. One that was made with other settings or another corpus is removed."""
    run = _run_uri(corpus, name)
    manifest = shards.read_corpus_manifest(corpus)
    mine = digest({"corpus": manifest.get("digest") or manifest, "settings": settings})
    uri = storage.join(run, storage.MANIFEST)
    if storage.exists(uri) and storage.read_json(uri).get("settings_digest") == mine:
        return run
    storage.remove(run)
    storage.write_manifest(run, "teach-run", TEACH_RUN_SCHEMA, settings_digest=mine)
    return run


def _remove_checkpoints(run: str) -> None:
    """Remove the checkpoints of a finished training, and the list of them."""
    storage.remove(storage.join(run, lease.LEASE))
    storage.remove(storage.join(run, "checkpoints"))


def _long_clips(corpus: str, split: str, frames: int) -> list[Any]:
    return [clip for clip in shards.read_clips(corpus, split, MAX_SYNC_CLIPS) if len(clip.frames) >= frames]
