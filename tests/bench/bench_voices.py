"""The student on human voices: emotion and identity from speech, on unseen takes and on an unseen sentence.

    s2v puppets VIDEOS --recipe voices --set puppets.voices=$RAVDESS
    python -m tests.bench.bench_voices VIDEOS OUT [--splits take within] [--recipe voices] [--set KEY=VALUE ...]
                                       [--json PATH]

The stages of ingest process the videos in this process. For each kind of ``ingest.split``, the clips are divided into
OUT/SPLIT/corpus, face teachers and judges are trained there, and a student is distilled by the task of `s2v distill`,
without a cluster, a sync network or a GAN. Figures are of the test split; leaks are accuracies of linear probes.
"""

from __future__ import annotations

import argparse
import functools
import time
from typing import Any

import cv2
import torch

from s2v_ray import shards, storage
from s2v_ray.config import Recipe, load_recipe
from s2v_ray.evaluation.student import student_figures
from s2v_ray.ingest import corpus as corpora
from s2v_ray.ingest import staging
from s2v_ray.ingest.annotate import annotate_shard, make_job
from s2v_ray.ingest.sources import list_clips
from s2v_ray.models import teachers
from s2v_ray.split_index import read_index
from s2v_ray.teach import ROLES
from s2v_ray.training.data.ray_stream import StreamConfig, stream
from s2v_ray.training.engine import EngineConfig, make_engine
from s2v_ray.training.tasks.context import TaskContext
from s2v_ray.training.tasks.distill import make_task
from s2v_ray.training.teach import teach_faces
from tests.bench.ablation import StudentEncoder
from tests.helpers.results import write_result


def divide(videos: str, work: str, target: str, recipe: Recipe) -> None:
    """Writes the clips of VIDEOS to a corpus with the splits of the recipe; staged clips in ``work`` are used again."""
    files = list_clips(videos, recipe.ingest.source)[1]
    results = [result for task in staging.make_tasks(files) for result in staging.stage(task, recipe, work)]
    clips, rejects = corpora.drop_duplicates([], *staging.split_results(results))
    plan = corpora.plan_shards(corpora.ExistingCorpus(), clips, recipe)
    for shard in plan:
        corpora.write_planned_shard(corpora.ShardAssembly.of(shard, target))
    content = corpora.corpus_manifest(plan, len(files), rejects, recipe)
    content["alignment"] = corpora.count_alignment(corpora.ExistingCorpus(), clips)
    storage.write_manifest(target, "corpus", shards.CORPUS_SCHEMA, parents={}, **content)


def annotate(corpus: str) -> None:
    """Stores the outputs of the teachers."""
    names = [uri.removeprefix(f"{corpus}/") for split in shards.SPLITS for uri in shards.shard_uris(corpus, split)]
    for role in ROLES:
        job = make_job(corpus, role, names)
        network = teachers.load(job.network_uri)
        for shard, outputs in job.shards:
            annotate_shard(network, role, shard, outputs)
        job.finish()


def distil(corpus: str, run: str, recipe: Recipe) -> None:
    """Trains a student and writes its bundle."""
    torch.manual_seed(recipe.seed)
    config = recipe.distill
    engines = functools.partial(make_engine, config=EngineConfig(micro_batch=config.batch))
    task = make_task(TaskContext(recipe, corpus, engines, torch.device("cpu")))
    batches = StreamConfig(
        read_index(corpus, "train"), config.batch, 1, config.speech_frames, recipe.seed, config.steps, executor="local"
    )
    for step, batch in enumerate(stream(batches)):
        terms = task.step(batch, step)
        if step % 100 == 0 or step == config.steps - 1:
            print(step, {name: round(float(value), 3) for name, value in terms.items()}, flush=True)
    task.export(run, {})


def measure(videos: str, out: str, recipe: Recipe) -> dict[str, Any]:
    """Figures of a student that is trained on a split."""
    split = recipe.ingest.split
    corpus, run = storage.join(out, split, "corpus"), storage.join(out, split, "student")
    divide(videos, storage.join(out, "staged"), corpus, recipe)
    began = time.monotonic()
    print(teach_faces(corpus, recipe)["networks"], flush=True)
    annotate(corpus)
    taught = time.monotonic()
    distil(corpus, run, recipe)
    trained = time.monotonic()
    found = student_figures(corpus, StudentEncoder(storage.join(run, "bundle")), recipe)
    emotion, identity = found["emotion_accuracy"], found["identity_accuracy"]
    leaks = found["leak_emotion"], found["leak_identity"]
    assert emotion and identity and leaks[0] and leaks[1], found["notes"]
    return {
        "ingest.split": split,
        "test clips": found["clips"],
        "emotion": round(emotion["mean"], 3),
        "identity": round(identity["mean"], 3),
        "emotion in the identity code": round(leaks[0]["accuracy"], 3),
        "chance of emotion": round(leaks[0]["chance"], 3),
        "identity in the emotion code": round(leaks[1]["accuracy"], 3),
        "chance of identity": round(leaks[1]["chance"], 3),
        "teaching, s": round(taught - began),
        "distillation, s": round(trained - taught),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos")
    parser.add_argument("out")
    parser.add_argument("--splits", nargs="+", default=["take", "within"])
    parser.add_argument("--recipe", default="voices")
    parser.add_argument("--set", nargs="+", default=[], dest="overrides")
    parser.add_argument("--json")
    args = parser.parse_args()
    for limit in (torch.set_num_threads, cv2.setNumThreads):
        limit(1)
    out, rows = storage.absolute(args.out), []
    for split in args.splits:
        recipe = load_recipe(args.recipe, [*args.overrides, f"ingest.split={split}"])
        rows.append(measure(storage.absolute(args.videos), out, recipe))
        print(rows[-1], flush=True)
    if args.json:
        write_result(args.json, rows)


if __name__ == "__main__":
    main()
