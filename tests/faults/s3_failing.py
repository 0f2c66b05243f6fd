"""An ingest from and to S3, and an epoch of the stream, while a fifth of the requests fails.

    python -m tests.faults.s3_failing [--clips 39] [--share 0.2] [--seed 0]

The server is the one of AWS_ENDPOINT_URL (with its credentials), or moto's, behind ``tests.helpers.faulty_s3``.
Exit status 0 if the corpus has the bytes of that of a local ingest, and the epoch has every clip once, with the
pixels of a stream from local disk.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import uuid
from dataclasses import replace
from pathlib import Path
from unittest import mock

import torch

from tests.helpers.faulty_s3 import FaultyS3

MOTO = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=39)
    parser.add_argument("--share", type=float, default=0.2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if "AWS_ENDPOINT_URL" not in os.environ:
        from moto.server import ThreadedMotoServer

        server = ThreadedMotoServer(port=0, verbose=False)
        server.start()
        os.environ |= MOTO | {"AWS_ENDPOINT_URL": "http://{}:{}".format(*server.get_host_and_port())}
    import boto3

    bucket = f"s2v-faults-{uuid.uuid4().hex[:8]}"
    boto3.client("s3").create_bucket(Bucket=bucket)
    with (
        FaultyS3(os.environ["AWS_ENDPOINT_URL"], share=args.share, seed=args.seed) as proxy,
        tempfile.TemporaryDirectory() as folder,
    ):
        os.environ["AWS_ENDPOINT_URL"] = (
            proxy.url
        )  # before anything of ours looks for S3, and before Ray's workers start
        return _judge(f"s3://{bucket}", folder, proxy, args.clips, args.seed)


def _judge(root: str, folder: str, proxy: FaultyS3, clips: int, seed: int) -> int:
    from s2v_ray import shards, storage
    from s2v_ray.ingest.ray_pipeline import ingest
    from s2v_ray.split_index import read_index
    from s2v_ray.training.data.ray_stream import StreamConfig, stream
    from tests.faults.damaged_videos import RECIPE, make

    make(Path(folder) / "videos", clips, seed)
    for file in storage.list_files(f"{folder}/videos"):
        storage.write_bytes(storage.join(root, "videos", Path(file).name), Path(file).read_bytes())
    there, here = storage.join(root, "corpus"), f"{folder}/corpus"
    ingest(f"{folder}/videos", here, RECIPE)
    ingest(storage.join(root, "videos"), there, RECIPE)

    def content(corpus: str) -> dict[str, bytes]:
        files = [
            uri for uri in storage.list_files(corpus) if not uri.endswith(storage.MANIFEST)
        ]  # the manifest names the source
        return {uri.removeprefix(corpus): storage.read_bytes(uri) for uri in files}

    one, two = content(there), content(here)
    if differing := sorted(name for name in one.keys() | two.keys() if one.get(name) != two.get(name)):
        print(f"these differ: {', '.join(differing)}")
        for left, right in zip(
            *(shards.read_shard(storage.join(corpus, "rejects.parquet")) for corpus in (here, there)), strict=False
        ):
            print(*([] if left == right else [left, right]), sep="\n", end="")
    same = one == two and shards.read_corpus_manifest(there)["digest"] == shards.read_corpus_manifest(here)["digest"]
    print(
        f"ingest: the bytes of a local one: {same} ({proxy.faults.total()} of {proxy.requests} requests failed so far)"
    )
    index = read_index(here, "train")
    count = int((index.frames >= 8).sum())
    local = StreamConfig(
        index, batch=1, frames=8, speech_frames=16, seed=0, steps=count, teachers=False, executor="local"
    )
    with mock.patch("s2v_ray.training.data.ray_stream.FIRST_CLIPS", 8):  # the rest through Ray
        streamed = list(stream(replace(local, index=read_index(there, "train"), executor="ray", task_cpus=0.5)))
    expected = list(stream(local))
    once = len({b.ids[0] for b in streamed}) == len(streamed) == count
    pairs = zip(streamed, expected, strict=True)
    equal = once and all(
        a.ids == b.ids and torch.equal(a.frames, b.frames) and torch.equal(a.speech, b.speech) for a, b in pairs
    )
    print(f"an epoch of {count} clips: each once: {once}, equal to a stream from local disk: {equal}")
    met = ", ".join(f"{kind} {n}" for kind, n in sorted(proxy.faults.items()))
    ok = same and equal and proxy.faults.total() > 0.1 * proxy.requests
    print(f"{proxy.requests} requests, of which failed: {met}\n{'OK' if ok else 'FAILED'}")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
