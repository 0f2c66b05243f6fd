"""A corpus of a few small clips with teacher outputs, made without ingest."""

from __future__ import annotations

import numpy as np

from s2v_ray import shards, split_index, storage
from s2v_ray.clip import Clip

EMOTIONS = ("neutral", "happy", "sad")


def make_clip(i: int, frames: int, size: int) -> Clip:
    """Frame k of clip i has red = 3 k and green = 7 i everywhere (mod 256); its samples are k / 1000."""
    pixels = np.zeros((frames, size, size, 3), np.uint8)
    pixels[..., 0] = 3 * np.arange(frames)[:, None, None] % 256
    pixels[..., 1] = 7 * i % 256
    speech = np.repeat(np.arange(frames, dtype=np.float32) / 1000, 640)
    return Clip(
        f"clip{i:04d}",
        pixels,
        speech,
        f"speaker{i % 4}",
        EMOTIONS[i % 3],
        f"s{i}",
        f"file{i}",
        np.zeros((frames, 5, 2), np.float32),
    )


def make_corpus(
    uri: str,
    clips: int = 40,
    *,
    per_shard: int = 16,
    size: int = 32,
    identity_dim: int = 6,
    val: int = 4,
    lengths: tuple[int, ...] = (20, 30, 45),
) -> str:
    """Writes a corpus and returns ``uri``.

    The identity code of clip i is the unit vector e_(i mod D); the emotion logits of frame k are (k, i, 0).
    """
    splits = {"test": {"clips": 0, "shards": 0}}
    for split, first, last in (("train", 0, clips), ("val", clips, clips + val)):
        splits[split] = {"clips": last - first, "shards": -(-(last - first) // per_shard)}
        starts = range(first, last, per_shard)
        found = [[lengths[i % len(lengths)] for i in range(at, min(last, at + per_shard))] for at in starts]
        split_index.write_index(uri, split, found)
        for n, start in enumerate(starts):
            made = [make_clip(i, lengths[i % len(lengths)], size) for i in range(start, min(last, start + per_shard))]
            name = f"part-{n:05d}.parquet"
            shard = storage.join(uri, split, name)
            shards.write_shard(shard, [shards.encode_clip(c) for c in made])
            identity = [
                shards.encode_output(c.id, np.eye(identity_dim, dtype=np.float32)[int(c.id[4:]) % identity_dim])
                for c in made
            ]
            emotion = [
                shards.encode_output(
                    c.id, np.stack([[k, float(c.id[4:]), 0.0] for k in range(len(c.frames))]).astype(np.float32)
                )
                for c in made
            ]
            shards.write_shard(shards.outputs_uri(uri, "identity", shard), identity, shards.OUTPUT_SCHEMA)
            shards.write_shard(shards.outputs_uri(uri, "emotion", shard), emotion, shards.OUTPUT_SCHEMA)
    storage.write_manifest(
        uri, "corpus", shards.CORPUS_SCHEMA, size=size, splits=splits, config_digest="tiny", parents={}
    )
    return uri
