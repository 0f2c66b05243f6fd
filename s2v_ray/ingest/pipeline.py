"""A source -> a corpus, on Ray Data; and a teacher's outputs beside the shards.

Two passes. The first processes files in parallel; each task writes its clips into a staging folder inside the corpus and hands only
their names on, so the driver holds a few hundred bytes a clip. Then the driver, which now knows every clip that can be used,
assigns splits and shards, and the second pass writes the shards from the staged clips. An earlier corpus is replaced only when
everything is ready, manifest last. Order, ids and splits come from content and seed, never from scheduling.
"""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import ray
import ray.data

from s2v_ray import config, shards, storage
from s2v_ray.config import Recipe
from s2v_ray.ingest import offset
from s2v_ray.ingest.sources import SourceClip, list_clips
from s2v_ray.ingest.stages import Entry, Process, Reason, Reject, assign_splits, order_key
from s2v_ray.media.face import make_detector
from s2v_ray.models import teachers

Progress = Callable[[str], None]
STAGING = ".staging-"
ROLES = ("identity", "emotion")
IDENTITY_STRIDE, EMOTION_STRIDE = 5, 2  # frames between those that a teacher looks at
OUTPUTS = "outputs.json"
_REPORT_SECONDS = 5.0
OBJECT_STORE_BYTES = 800_000_000  # only names of clips pass through it


def start_ray() -> None:
    """Joins the cluster that ``RAY_ADDRESS`` names, or starts one on this machine; nothing where one is joined already.

    A raylet gives its agent 15 s to come up and then dies, which happens on a busy machine: starting is tried three times.
    """
    for left in (2, 1, 0):
        if ray.is_initialized():
            break
        try:
            if os.environ.get("RAY_ADDRESS"):
                ray.init(log_to_driver=False, logging_level=logging.WARNING)
            else:
                ray.init(address="local", object_store_memory=OBJECT_STORE_BYTES, log_to_driver=False, logging_level=logging.WARNING)
        except Exception as e:  # Ray raises a bare Exception here
            ray.shutdown()
            if not left or "timed out during startup" not in str(e):
                raise
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def ingest(source_uri: str, corpus_uri: str, recipe: Recipe, progress: Progress = print) -> dict[str, Any]:
    """Makes a corpus of a source.

    Teachers that the recipe names by card are installed and look at every clip. The others: ``s2v teach``.

    Returns:
        the corpus's manifest.

    Raises:
        ArtifactError: nothing to read, nowhere to write, no usable clip, or more rejects than ``ingest.max_reject_share``. Whatever
            was at ``corpus_uri`` is then as it was.
    """
    layout, clips = list_clips(source_uri, recipe.ingest.source)
    clips = offset.correct(clips, recipe.ingest)
    if not all(c.truth for c in clips):
        make_detector(recipe.ingest.detector)  # fails here, in one sentence, rather than in every task
    storage.check_writable(corpus_uri)
    staging = storage.join(corpus_uri, STAGING + uuid.uuid4().hex[:8])
    try:
        staged = storage.join(staging, "corpus")
        cards = {role: card for role in ROLES if (card := getattr(recipe.teachers, role))}
        for role, card in cards.items():
            teachers.install_card(card, recipe.teachers.weights, storage.join(staged, "teachers", role))
        start_ray()
        progress(f"ingest: {len(clips)} files of layout {layout!r} in {source_uri}")
        found, rejects = _process(clips, storage.join(staging, "clips"), recipe, progress)
        _check_rejects(clips, found, rejects, recipe)
        plan = _plan_shards(found, recipe)
        _write_shards(plan, staged, recipe)
        shards.write_shard(storage.join(staged, "rejects.parquet"), rejects, shards.REJECT_SCHEMA)
        for role in cards:
            _annotate(staged, role, [s.name for s in plan], progress)
        manifest = _manifest(layout, source_uri, clips, plan, rejects, recipe)
        _publish(staged, corpus_uri)
        manifest = storage.write_manifest(corpus_uri, "corpus", shards.CORPUS_SCHEMA, **manifest)
    finally:
        storage.remove(staging)
    counts = ", ".join(f"{s} {c['clips']}" for s, c in manifest["splits"].items())
    progress(f"ingest: {sum(c['clips'] for c in manifest['splits'].values())} clips ({counts}), {len(rejects)} rejected -> {corpus_uri}")
    return manifest


# ---- first pass: files -> staged clips


def _process(clips: list[SourceClip], folder: str, recipe: Recipe, progress: Progress) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of what was staged (without pixels) and rows of ``REJECT_SCHEMA``, both in the source's order."""
    items = [{"index": i, **asdict(c)} for i, c in enumerate(clips)]
    data = ray.data.from_items(items, override_num_blocks=min(len(items), 400)).flat_map(_Stage(recipe, folder))
    rows, done, begin = [], 0, time.monotonic()
    said = begin
    for row in data.iter_rows():
        rows.append(row)
        done += row["piece"] == 0
        if time.monotonic() - said > _REPORT_SECONDS:
            said = time.monotonic()
            progress(f"ingest: {done}/{len(clips)} files, {sum(bool(r['reason']) for r in rows)} rejected, {(said - begin) / done:.2f} s a file")
    rows.sort(key=lambda r: (r["index"], r["piece"]))
    found: dict[str, dict[str, Any]] = {}
    rejects = []
    for row in rows:
        if row["reason"]:
            rejects.append({k: row[k] for k in ("source", "reason", "detail")})
        elif row["id"] in found:
            rejects.append({"source": row["source"], "reason": Reason.DUPLICATE.value, "detail": f"the same as {found[row['id']]['source']}"})
        else:
            found[row["id"]] = row
    return list(found.values()), rejects


@dataclass(frozen=True)
class _Stage:
    """One file -> staged clips, and one row on each; or one row that says why not."""

    recipe: Recipe
    folder: str

    def __call__(self, item: dict[str, Any]) -> list[dict[str, Any]]:
        index = item.pop("index")
        source = SourceClip(**item)
        blank = {"index": index, "piece": 0, "id": "", "speaker": source.speaker, "emotion": "", "sentence": "", "file": source.name, "frames": 0, "uri": ""}
        try:
            clips = Process(self.recipe).process(source)
        except Reject as e:
            return [blank | {"source": source.name, "reason": e.reason.value, "detail": e.detail}]
        rows = []
        for piece, clip in enumerate(clips):
            uri = storage.join(self.folder, f"{index:07d}-{piece:04d}.parquet")
            shards.write_shard(uri, [shards.encode_clip(clip, self.recipe.ingest.jpeg_quality)])
            known = {"id": clip.id, "emotion": clip.emotion, "sentence": clip.sentence, "source": clip.source, "frames": len(clip.frames)}
            rows.append(blank | known | {"piece": piece, "uri": uri, "reason": "", "detail": ""})
        return rows


def _check_rejects(clips: list[SourceClip], found: list[dict[str, Any]], rejects: list[dict[str, Any]], recipe: Recipe) -> None:
    if found and len(rejects) <= recipe.ingest.max_reject_share * len(clips):
        return
    counts = ", ".join(f"{reason} {n}" for reason, n in sorted(Counter(r["reason"] for r in rejects).items()))
    bar = f"more than ingest.max_reject_share={recipe.ingest.max_reject_share}" if found else "none is left"
    first = rejects[0]
    raise storage.ArtifactError(f"{len(rejects)} of {len(clips)} files were rejected ({counts}), {bar}; the first: {first['source']}: {first['detail']}")


# ---- second pass: staged clips -> shards


@dataclass(frozen=True)
class _Shard:
    """A shard to be: "split/part-00000.parquet" and its clips' rows, in order."""

    name: str
    split: str
    rows: list[dict[str, Any]]


def _plan_shards(found: list[dict[str, Any]], recipe: Recipe) -> list[_Shard]:
    entries = [Entry(r["id"], r["speaker"], r["sentence"], r["file"]) for r in found]
    splits = assign_splits(entries, recipe.ingest, recipe.seed)
    plan = []
    for split in shards.SPLITS:
        rows = sorted((r for r in found if splits[r["id"]] == split), key=lambda r: order_key(recipe.seed, r["id"]))
        size = recipe.ingest.clips_per_shard
        plan += [_Shard(f"{split}/part-{i // size:05d}.parquet", split, rows[i : i + size]) for i in range(0, len(rows), size)]
    return plan


def _write_shards(plan: list[_Shard], staged: str, recipe: Recipe) -> None:
    items = [{"uri": storage.join(staged, s.name), "parts": [r["uri"] for r in s.rows]} for s in plan]
    written = ray.data.from_items(items, override_num_blocks=len(items)).map(_write_shard).take_all()
    if sum(w["clips"] for w in written) != sum(len(s.rows) for s in plan):
        raise storage.ArtifactError(f"clips were lost between {staged} and its shards; is it one storage for all workers?")


def _write_shard(item: dict[str, Any]) -> dict[str, Any]:
    rows = [row for part in item["parts"] for row in shards.read_shard(part)]
    shards.write_shard(item["uri"], rows)
    return {"clips": len(rows)}


def _manifest(layout: str, source_uri: str, clips: list[SourceClip], plan: list[_Shard], rejects: list[dict[str, Any]], recipe: Recipe) -> dict[str, Any]:
    rows = [r for s in plan for r in s.rows]
    splits = {}
    for split in shards.SPLITS:
        mine = [s for s in plan if s.split == split]
        splits[split] = {"clips": sum(len(s.rows) for s in mine), "frames": sum(r["frames"] for s in mine for r in s.rows), "shards": len(mine)}
    corrected = {"offset": offset.describe(clips, recipe.ingest)} if recipe.ingest.offset != "none" else {}
    return corrected | {
        "size": recipe.media.size,
        "splits": splits,
        "speakers": sorted({r["speaker"] for r in rows}),
        "emotions": sorted({r["emotion"] for r in rows} - {""}),
        "files": len(clips),
        "rejects": dict(sorted(Counter(r["reason"] for r in rejects).items())),
        "source": {"uri": source_uri, "layout": layout},
        "seed": recipe.seed,
        "config_digest": recipe.digest(),
        "digest": config.digest([[s.name, [r["id"] for r in s.rows]] for s in plan]),
        "parents": {"source": _source_digest(source_uri, clips)},
    }


def _source_digest(source_uri: str, clips: list[SourceClip]) -> str:
    """The source's own digest where it has a manifest, else one of its clips' names and labels."""
    manifest = storage.join(source_uri, storage.MANIFEST)
    known = storage.read_json(manifest).get("digest") if storage.exists(manifest) else None
    return known or config.digest([[c.name, c.speaker, c.emotion, c.sentence] for c in clips])


def _publish(staged: str, corpus: str) -> None:
    """Replaces what is at ``corpus``. Without a manifest there is no corpus, so readers meet the old one, none, or the new one."""
    for old in (storage.MANIFEST, "rejects.parquet", *shards.SPLITS, "teachers", "judges"):
        storage.remove(storage.join(corpus, old))
    fs, source = storage.filesystem(staged)
    _, target = storage.filesystem(corpus)
    fs.invalidate_cache()  # workers wrote there
    for path in fs.find(source):
        moved = storage.join(target, os.path.relpath(path, source))
        fs.makedirs(os.path.dirname(moved), exist_ok=True)
        fs.mv(path, moved)


# ---- teachers' outputs


def annotate(corpus_uri: str, role: str, progress: Progress = print) -> dict[str, Any]:
    """Computes what the teacher ``role`` sees in every clip, and stores it beside the shards; nothing where that was done.

    identity: ``[D]``, the normalised mean over every 5th frame. emotion: logits ``[T, K]``, computed at every 2nd frame and interpolated.

    Returns:
        role, digest of the network, clips.

    Raises:
        ArtifactError: no corpus, or no such teacher in it.
    """
    manifest = shards.read_corpus_manifest(corpus_uri)
    names = [uri.rstrip("/").rsplit("/", 2)[1:] for split in shards.SPLITS for uri in shards.shard_uris(corpus_uri, split)]
    expected = {"digest": teachers.load(storage.join(corpus_uri, "teachers", role)).digest, "clips": sum(c["clips"] for c in manifest["splits"].values())}
    marker = storage.join(corpus_uri, "teachers", role, OUTPUTS)
    if storage.exists(marker) and storage.read_json(marker) == expected:
        progress(f"annotate: {role}: already there")
        return {"role": role, **expected}
    storage.check_writable(storage.join(corpus_uri, "teachers", role))
    start_ray()
    return _annotate(corpus_uri, role, ["/".join(n) for n in names], progress)


def _annotate(corpus: str, role: str, names: list[str], progress: Progress) -> dict[str, Any]:
    """``names``: "split/part-00000.parquet" of every shard. The marker is written last."""
    network = storage.join(corpus, "teachers", role)
    marker = storage.join(network, OUTPUTS)
    storage.remove(marker)
    items = [{"shard": storage.join(corpus, n), "outputs": storage.join(network, n)} for n in names]
    data = ray.data.from_items(items, override_num_blocks=len(items)).map(_Annotate(network, role))
    clips, said = 0, time.monotonic()
    for i, row in enumerate(data.iter_rows(), 1):
        clips += row["clips"]
        if time.monotonic() - said > _REPORT_SECONDS or i == len(items):
            said = time.monotonic()
            progress(f"annotate: {role}: {i}/{len(items)} shards, {clips} clips")
    done = {"digest": teachers.load(network).digest, "clips": clips}
    storage.write_json(marker, done)
    return {"role": role, **done}


@dataclass(frozen=True)
class _Annotate:
    """One shard -> the teacher's outputs for it."""

    network: str
    role: str

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        network = teachers.load(self.network)
        outputs = [shards.encode_output(clip_id, see(network, frames, self.role)) for clip_id, frames in _frames(item["shard"])]
        shards.write_shard(item["outputs"], outputs, shards.OUTPUT_SCHEMA)
        return {"clips": len(outputs)}


def _frames(shard: str) -> Iterator[tuple[str, np.ndarray]]:
    for row in shards.read_shard(shard, columns=["id", "frames"]):
        yield row["id"], shards.decode_frames(row["frames"])


def see(network: Callable[[np.ndarray], Any], frames: np.ndarray, role: str) -> np.ndarray:
    """What a teacher says of a clip, as it is stored.

    Args:
        network: uint8 ``[N, S, S, 3]`` -> ``[N, D]``.
        frames: uint8 ``[T, S, S, 3]``.

    Returns:
        identity: float32 ``[D]``, unit length. Otherwise float32 ``[T, D]``.
    """
    if role == "identity":
        mean = np.asarray(network(frames[::IDENTITY_STRIDE])).mean(axis=0)
        return (mean / np.linalg.norm(mean)).astype(np.float32)
    at = np.unique(np.r_[np.arange(0, len(frames), EMOTION_STRIDE), len(frames) - 1])
    seen = np.asarray(network(frames[at]))
    return np.stack([np.interp(np.arange(len(frames)), at, column) for column in seen.T], axis=1).astype(np.float32)
