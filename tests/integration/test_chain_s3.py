"""The whole chain with every artifact on ``s3://``: videos, corpus, runs, bundles, report and the MP4.

Nothing but S3 is shared by its commands.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import ray

from s2v_ray import shards, storage
from s2v_ray.evaluation.rows import REFERENCE_ROWS, ROWS
from s2v_ray.media.audio import read_speech
from s2v_ray.media.timing import samples_to_frames
from s2v_ray.media.video import read_video, write_mp4
from s2v_ray.models.bundle import load_bundle

# One process, so that Ray is started once; a folder of its own, where nothing must appear.
SCRIPT = """
import json, sys
from s2v_ray.cli import main
for argv in json.load(sys.stdin):
    print("$ s2v", *argv, flush=True)
    if main(argv) != 0:
        sys.exit("s2v " + argv[0] + " failed")
"""


@pytest.mark.minutes
@pytest.mark.cluster
def test_the_chain_runs_on_s3_alone(bucket: str, tmp_path: Path) -> None:
    def at(name: str) -> str:
        return storage.join(bucket, "chain", name)

    ray.shutdown()  # what earlier tests left would only take CPU from the commands' own
    shorter = ["puppets.emotions=[neutral, angry]", "teach.steps=40", "distill.steps=10", "gan.steps=10"]
    recipe = ["--recipe", "debug", *(word for one in shorter for word in ("--set", one))]
    speech = at("speech.mp4")
    write_mp4(
        tmp_path / "speech.mp4",
        [np.zeros((32, 32, 3), np.uint8)] * 30,
        0.3 * np.sin(np.arange(30 * 640) / 20).astype(np.float32),
    )
    storage.write_bytes(speech, (tmp_path / "speech.mp4").read_bytes())
    commands = [
        ["puppets", at("videos"), *recipe],
        ["ingest", at("videos"), at("corpus"), *recipe],
        ["teach", at("corpus"), *recipe],
        ["distill", at("corpus"), at("student"), *recipe],
        ["train", at("corpus"), at("generator"), "--student", at("student"), *recipe],
        ["evaluate", at("corpus"), at("report"), "--bundle", at("generator"), *recipe, "--json", at("evaluate.json")],
        ["generate", "--bundle", at("generator"), speech, "-o", at("out.mp4")],
        ["ingest", at("videos"), at("corpus"), *recipe],  # nothing is new
        [
            "train",
            at("corpus"),
            at("generator"),
            "--student",
            at("student"),
            *recipe,
        ],  # is done: continues from its last checkpoint
    ]
    root = str(Path(__file__).parents[2])
    empty = tmp_path / "cwd"
    empty.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps(commands),
        cwd=empty,
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"

    manifest = shards.read_corpus_manifest(at("corpus"))
    counted = [
        row["id"]
        for split in shards.SPLITS
        for uri in shards.shard_uris(at("corpus"), split)
        for row in shards.read_shard(uri, ["id"])
    ]
    assert len(counted) == len(set(counted)) == 4 * 2 * 4 - sum(manifest["rejects"].values())
    for role in ("identity", "emotion"):
        uris = [
            shards.outputs_uri(at("corpus"), role, uri)
            for split in shards.SPLITS
            for uri in shards.shard_uris(at("corpus"), split)
        ]
        assert [row["id"] for uri in uris for row in shards.read_shard(uri, ["id"])] == counted
    assert "continues from the checkpoint of step 10" in done.stdout.split("$ s2v train")[-1]
    assert load_bundle(storage.join(at("generator"), "bundle"), "speech2video")
    assert set(storage.read_json(at("evaluate.json"))["result"]["rows"]) == ROWS.keys() - REFERENCE_ROWS
    assert storage.read_bytes(at("report/report.html"))
    heard = samples_to_frames(
        len(read_speech(tmp_path / "speech.mp4"))
    )  # AAC fills its last block: one frame more than was written
    assert len(read_video(storage.download(at("out.mp4"), str(tmp_path))).frames) == heard
    assert not list(empty.iterdir()), "a command left files in its working directory"
