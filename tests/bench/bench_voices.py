"""The student on human voices: emotion and identity from speech, on unseen takes and on an unseen sentence.

    s2v puppets videos --recipe voices --set puppets.voices=$RAVDESS
    s2v ingest videos corpus --recipe voices
    python -m tests.bench.bench_voices CORPUS OUT [--splits take within] [--recipe voices] [--set KEY=VALUE ...]
                                       [--json PATH]

For each kind of ``ingest.split``, the clips of CORPUS are divided anew into OUT/SPLIT/corpus, face teachers are trained
there, and a student is distilled, without a sync network or a GAN. Figures are of the test split; leaks are accuracies
of linear probes.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

from s2v_ray import shards, storage
from s2v_ray.config import Recipe, load_recipe
from s2v_ray.evaluation.student import student_figures
from s2v_ray.ingest import corpus as corpora
from s2v_ray.ingest.ray_pipeline import annotate
from s2v_ray.ingest.staging import ClipRecord
from s2v_ray.teach import ROLES
from s2v_ray.training.launch import launch
from s2v_ray.training.runs import RunSpec
from s2v_ray.training.teach import teach_faces
from tests.bench.ablation import StudentEncoder
from tests.helpers.results import write_result


def divide(corpus: str, target: str, recipe: Recipe) -> None:
    """Writes the clips of a corpus to another one with the splits of the recipe."""
    rows = {
        row["id"]: row
        for split in shards.SPLITS
        for uri in shards.shard_uris(corpus, split)
        for row in shards.read_shard(uri)
    }
    labels = ("id", "speaker", "emotion", "sentence", "source", "num_frames")
    clips = [ClipRecord(*(row[label] for label in labels)) for row in rows.values()]
    plan = corpora.plan_shards(corpora.ExistingCorpus(), clips, recipe)
    for shard in plan:
        shards.write_shard(storage.join(target, shard.name), [rows[clip] for clip in shard.ids])
    storage.write_manifest(
        target,
        "corpus",
        shards.CORPUS_SCHEMA,
        parents={"corpus": shards.read_corpus_manifest(corpus)["digest"]},
        **corpora.corpus_manifest(plan, len(clips), [], recipe),
    )


def measure(corpus: str, out: str, recipe: Recipe) -> dict[str, Any]:
    """Figures of a student that is trained on a split."""
    target, run = storage.join(out, "corpus"), storage.join(out, "student")
    divide(corpus, target, recipe)
    began = time.monotonic()
    faces = teach_faces(target, recipe)["networks"]
    for role in ROLES:
        annotate(target, role)
    taught = time.monotonic()
    launch(RunSpec("distill", recipe, target, run))
    trained = time.monotonic()
    found = student_figures(target, StudentEncoder(storage.join(run, "bundle")), recipe)
    emotion, identity = found["emotion_accuracy"], found["identity_accuracy"]
    leaks = found["leak_emotion"], found["leak_identity"]
    assert emotion and identity and leaks[0] and leaks[1], found["notes"]
    print(faces)
    return {
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
    parser.add_argument("corpus")
    parser.add_argument("out")
    parser.add_argument("--splits", nargs="+", default=["take", "within"])
    parser.add_argument("--recipe", default="voices")
    parser.add_argument("--set", nargs="+", default=[], dest="overrides")
    parser.add_argument("--json")
    args = parser.parse_args()
    rows = []
    for split in args.splits:
        recipe = load_recipe(args.recipe, [*args.overrides, f"ingest.split={split}"])
        out = storage.join(storage.absolute(args.out), split)
        rows.append({"ingest.split": split, **measure(storage.absolute(args.corpus), out, recipe)})
        print(rows[-1], flush=True)
    if args.json:
        write_result(args.json, rows)


if __name__ == "__main__":
    main()
