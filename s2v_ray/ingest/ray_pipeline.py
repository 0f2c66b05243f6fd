"""A source -> a corpus, on Ray Data; and a teacher's outputs beside the shards.

Two passes. The first processes files in parallel; each task writes the clips of a few files into a work folder inside the corpus and
hands only their names on, so the driver holds a few hundred bytes a clip. Then the driver, which now knows every clip that can be
used, assigns splits and shards, and the second pass writes the shards from there. Order, ids and splits come from content and seed,
never from scheduling, and what a task has finished it does not do again. So ingest may be killed anywhere: the same command goes on,
and the corpus is byte for byte the one of an undisturbed run.

Only shards that the manifest counts exist for readers, and the manifest is written last: until then there is the old corpus, or none.
Files that an earlier ingest has seen, known by their names, are not looked at again: clips of new files go to new shards.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import ray.data
import torch

from s2v_ray import config, shards, storage
from s2v_ray.cluster.runtime import node_selector, start_ray
from s2v_ray.config import Recipe
from s2v_ray.ingest import offsets
from s2v_ray.ingest.scan import Entry, Process, Reason, Reject, assign_splits, file_of, order_key
from s2v_ray.ingest.sources import SourceClip, list_clips
from s2v_ray.media.face import make_detector
from s2v_ray.models import teachers

Progress = Callable[[str], None]
Row = dict[str, Any]
WORK = ".ingest"
"""Folder in the corpus for what an unfinished ingest has done; removed at its end."""
FILES_A_TASK, LEAST_TASKS = 8, 32
"""Files whose clips are staged together: what a kill can cost a task. Fewer where there would be less than ``LEAST_TASKS`` to share out;
a task costs Ray as much CPU as a short file."""
LABELS = ["id", "speaker", "emotion", "sentence", "source", "num_frames"]
ROLES = ("identity", "emotion")
IDENTITY_STRIDE, EMOTION_STRIDE = 5, 2  # frames between those that a teacher looks at
OUTPUTS = "outputs.json"
_REPORT_SECONDS = 5.0


def ingest(source_uri: str, corpus_uri: str, recipe: Recipe, progress: Progress = print) -> dict[str, Any]:
    """Makes a corpus of a source, goes on with one that was cut off, or adds to one what is new in the source.

    Teachers that the recipe names by card are installed. Every teacher of the corpus looks at every clip it has not seen; teachers
    that are trained on the corpus: ``s2v teach``.

    Returns:
        the corpus's manifest.

    Raises:
        ArtifactError: nothing to read, nowhere to write, no usable clip, more rejects than ``ingest.max_reject_share``, or a corpus
            that was made with other settings. Whatever was at ``corpus_uri`` is then as it was.
    """
    layout, clips = list_clips(source_uri, recipe.ingest.source)
    clips = offsets.correct(clips, recipe.ingest)
    there = _there(corpus_uri, recipe)
    known = {name for r in [*there.rows, *there.rejects] for name in (r["source"], file_of(r["source"]))}
    fresh = [c for c in clips if c.name not in known]
    if not all(c.truth for c in fresh):
        make_detector(recipe.ingest.detector)  # fails here, in one sentence, rather than in every task
    storage.check_writable(corpus_uri)
    files = there.files + len(fresh)
    cards = {role: card for role in ROLES if (card := getattr(recipe.teachers, role))}
    for card in cards.values():
        teachers.resolve_card(card, recipe.teachers.weights)  # fails here as well
    start_ray()
    progress(
        f"ingest: {len(clips)} files of layout {layout!r} in {source_uri}"
        + (f", {len(fresh)} of them new" if there.rows else "")
    )
    staged = {
        "settings": _settings(recipe),
        "files": [c.name for c in fresh],
        "files_a_task": _files_a_task(len(fresh)),
    }
    work = storage.join(corpus_uri, WORK, config.digest(staged))
    added, rejects = _process(fresh, work, recipe, progress)
    rows, rejects = _without_twins(there.rows, added, [*there.rejects, *rejects])
    _check_rejects(files, there.rows + rows, rejects, recipe)
    plan = _plan_shards(there, rows, recipe)
    _write_shards(plan, corpus_uri)
    for role, card in cards.items():
        teachers.install_card(card, recipe.teachers.weights, storage.join(corpus_uri, "teachers", role))
    names = [s.name for s in [*there.shards, *plan]]
    for role in ROLES:
        if storage.exists(storage.join(corpus_uri, "teachers", role, teachers.CARD)):
            _annotate(corpus_uri, role, names, progress)
    if plan or rejects != there.rejects or not there.rows:
        shards.write_shard(storage.join(corpus_uri, "rejects.parquet"), rejects, shards.REJECT_SCHEMA)
        content = _manifest([*there.shards, *plan], files, rejects, recipe)
        source = {
            "source": {"uri": source_uri, "layout": layout},
            "parents": {"source": _source_digest(source_uri, clips)},
        }
        if recipe.ingest.offset != "none":
            source["offset"] = offsets.describe(clips, recipe.ingest)
        storage.write_manifest(corpus_uri, "corpus", shards.CORPUS_SCHEMA, **content, **source)
    _tidy(corpus_uri)
    manifest = shards.read_corpus_manifest(corpus_uri)
    counts = ", ".join(f"{split} {manifest['splits'][split]['clips']}" for split in shards.SPLITS)
    progress(
        f"ingest: {sum(c['clips'] for c in manifest['splits'].values())} clips ({counts}), {len(rejects)} rejected -> {corpus_uri}"
    )
    return manifest


# ---- what is there already


@dataclass(frozen=True)
class _Shard:
    """A shard, there or to be: "train/part-00000.parquet" and its clips' rows, in order."""

    name: str
    split: str
    rows: list[dict[str, Any]]


@dataclass(frozen=True)
class _There:
    """What an earlier ingest has made: shards, rows of ``REJECT_SCHEMA``, number of files seen."""

    shards: list[_Shard] = field(default_factory=list)
    rejects: list[dict[str, Any]] = field(default_factory=list)
    files: int = 0

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [row for shard in self.shards for row in shard.rows]


def _there(corpus: str, recipe: Recipe) -> _There:
    if not storage.exists(storage.join(corpus, storage.MANIFEST)):
        return _There()
    manifest = shards.read_corpus_manifest(corpus)
    its = manifest.get("settings", {})
    differing = [
        f"{key} {its.get(key)!r} there, {value!r} here"
        for key, value in _settings(recipe).items()
        if its.get(key) != value
    ]
    if differing:
        raise storage.ArtifactError(
            f"{corpus} was made with other settings ({'; '.join(differing[:3])}): name another folder, or remove it"
        )
    found = []
    for split in shards.SPLITS:
        for uri in shards.shard_uris(corpus, split):
            rows = [{**r, "frames": r["num_frames"]} for r in shards.read_shard(uri, LABELS)]
            found.append(_Shard("/".join(uri.split("/")[-2:]), split, rows))
    return _There(found, shards.read_shard(storage.join(corpus, "rejects.parquet")), manifest["files"])


def _settings(recipe: Recipe) -> dict[str, Any]:
    """What clips and splits depend on, key by key. How many rejects are too many is not among it, nor are the teachers."""
    sections = {"media": recipe.media, "ingest": recipe.ingest}
    flat = {
        f"{name}.{key}": value
        for name, section in sections.items()
        for key, value in section.model_dump(mode="json").items()
    }
    return {key: value for key, value in flat.items() if key not in ("ingest.max_reject_share", "ingest.source")} | {
        "seed": recipe.seed
    }


# ---- first pass: files -> staged clips


def _files_a_task(files: int) -> int:
    return min(FILES_A_TASK, max(1, files // LEAST_TASKS))


def _process(clips: list[SourceClip], folder: str, recipe: Recipe, progress: Progress) -> tuple[list[Row], list[Row]]:
    """Rows of what was staged (without pixels) and rows of ``REJECT_SCHEMA``, both in the source's order."""
    if not clips:
        return [], []
    each = _files_a_task(len(clips))
    items = [{"first": i, "files": [asdict(c) for c in clips[i : i + each]]} for i in range(0, len(clips), each)]
    data = ray.data.from_items(items, override_num_blocks=min(len(items), 400)).flat_map(
        _Stage(recipe, folder), label_selector=node_selector("ingest")
    )
    rows, done, begin = [], 0, time.monotonic()
    said = begin
    for row in data.iter_rows():
        rows.append(row)
        done += row["piece"] == 0
        if time.monotonic() - said > _REPORT_SECONDS:
            said = time.monotonic()
            progress(
                f"ingest: {done}/{len(clips)} files, {sum(bool(r['reason']) for r in rows)} rejected, {(said - begin) / done:.2f} s a file"
            )
    rows.sort(key=lambda r: (r["index"], r["piece"]))
    rejects = [{k: row[k] for k in ("source", "reason", "detail")} for row in rows if row["reason"]]
    return [row for row in rows if not row["reason"]], rejects


@dataclass(frozen=True)
class _Stage:
    """A few files -> one staged shard of their clips, and a row on each; or a row that says why not. What is there is not done again."""

    recipe: Recipe
    folder: str

    def __call__(self, item: dict[str, Any]) -> list[Row]:
        staged = storage.join(self.folder, f"{item['first']:09d}")
        if storage.exists(f"{staged}.json"):
            rows: list[Row] = storage.read_json(f"{staged}.json")
            return rows
        rows, clips = [], list[Row]()
        for index, known in enumerate(item["files"], item["first"]):
            for row, clip in self._file(index, SourceClip(**known)):
                rows.append(row | {"uri": f"{staged}.parquet", "group": len(clips)})
                clips += [] if clip is None else [clip]
        shards.write_shard(f"{staged}.parquet", clips, group=1)
        storage.write_json(f"{staged}.json", rows)
        return rows

    def _file(self, index: int, source: SourceClip) -> Iterator[tuple[dict[str, Any], dict[str, Any] | None]]:
        blank = {
            "index": index,
            "piece": 0,
            "id": "",
            "speaker": source.speaker,
            "emotion": "",
            "sentence": "",
            "file": source.name,
            "frames": 0,
        }
        try:
            clips = Process(self.recipe).process(source)
        except Reject as e:
            yield blank | {"source": source.name, "reason": e.reason.value, "detail": e.detail}, None
            return
        for piece, clip in enumerate(clips):
            known = {
                "id": clip.id,
                "emotion": clip.emotion,
                "sentence": clip.sentence,
                "source": clip.source,
                "frames": len(clip.frames),
            }
            yield (
                blank | known | {"piece": piece, "reason": "", "detail": ""},
                shards.encode_clip(clip, self.recipe.ingest.jpeg_quality),
            )


def _without_twins(there: list[Row], added: list[Row], rejects: list[Row]) -> tuple[list[Row], list[Row]]:
    """Rows whose content is new, and all rejects, those with the content of another clip among them, by name."""
    first = {row["id"]: row["source"] for row in there}
    fresh = []
    for row in added:
        if row["id"] in first:
            rejects = [
                *rejects,
                {
                    "source": row["source"],
                    "reason": Reason.DUPLICATE.value,
                    "detail": f"the same as {first[row['id']]}",
                },
            ]
        else:
            first[row["id"]] = row["source"]
            fresh.append(row)
    return fresh, sorted({r["source"]: r for r in rejects}.values(), key=lambda r: r["source"])


def _check_rejects(files: int, rows: list[Row], rejects: list[Row], recipe: Recipe) -> None:
    if rows and len(rejects) <= recipe.ingest.max_reject_share * files:
        return
    counts = ", ".join(f"{reason} {n}" for reason, n in sorted(Counter(r["reason"] for r in rejects).items()))
    bar = f"more than ingest.max_reject_share={recipe.ingest.max_reject_share}" if rows else "none is left"
    first = rejects[0]
    raise storage.ArtifactError(
        f"{len(rejects)} of {files} files were rejected ({counts}), {bar}; the first: {first['source']}: {first['detail']}"
    )


# ---- second pass: staged clips -> shards


def _plan_shards(there: _There, rows: list[Row], recipe: Recipe) -> list[_Shard]:
    """The shards to add."""
    known = {r["id"]: s.split for s in there.shards for r in s.rows}
    entries = [Entry(r["id"], r["speaker"], r["sentence"], file_of(r["source"])) for r in [*there.rows, *rows]]
    splits = assign_splits(entries, recipe.ingest, recipe.seed, known)
    plan = []
    for split in shards.SPLITS:
        mine = sorted((r for r in rows if splits[r["id"]] == split), key=lambda r: order_key(recipe.seed, r["id"]))
        size, number = recipe.ingest.clips_per_shard, sum(s.split == split for s in there.shards)
        plan += [
            _Shard(shards.shard_name(split, number + i // size), split, mine[i : i + size])
            for i in range(0, len(mine), size)
        ]
    return plan


def _write_shards(plan: list[_Shard], corpus: str) -> None:
    if not plan:
        return
    items = [
        {
            "shard": storage.join(corpus, s.name),
            "ids": [r["id"] for r in s.rows],
            "parts": [(r["uri"], r["group"]) for r in s.rows],
        }
        for s in plan
    ]
    ray.data.from_items(items, override_num_blocks=len(items)).map(
        _write_shard, label_selector=node_selector("ingest")
    ).take_all()


def _write_shard(item: dict[str, Any]) -> dict[str, Any]:
    """Raises ArtifactError where what was staged is not what the plan names: storage that is not one for all workers, or lost."""
    if _ids(item["shard"]) != item["ids"]:
        rows = [row for uri, group in item["parts"] for row in shards.read_rows(uri, int(group))]
        if [r["id"] for r in rows] != item["ids"]:
            raise storage.ArtifactError(
                f"staged clips of {item['shard']} are not those that were planned: remove {WORK} in the corpus, and ingest again"
            )
        shards.write_shard(item["shard"], rows)
    return {"clips": len(item["ids"])}


def _ids(shard: str) -> list[str] | None:
    """The clips of a shard; None where there is no whole one."""
    try:
        return [r["id"] for r in shards.read_shard(shard, ["id"])]
    except (FileNotFoundError, storage.ArtifactError):
        return None


def _manifest(made: list[_Shard], files: int, rejects: list[Row], recipe: Recipe) -> dict[str, Any]:
    rows = [r for s in made for r in s.rows]
    splits = {}
    for split in shards.SPLITS:
        mine = [s for s in made if s.split == split]
        splits[split] = {
            "clips": sum(len(s.rows) for s in mine),
            "frames": sum(r["frames"] for s in mine for r in s.rows),
            "shards": len(mine),
        }
    return {
        "size": recipe.media.size,
        "splits": splits,
        "speakers": sorted({r["speaker"] for r in rows}),
        "emotions": sorted({r["emotion"] for r in rows} - {""}),
        "files": files,
        "rejects": dict(sorted(Counter(r["reason"] for r in rejects).items())),
        "seed": recipe.seed,
        "settings": _settings(recipe),
        "config_digest": recipe.digest(),
        "digest": config.digest(sorted([s.name, [r["id"] for r in s.rows]] for s in made)),
    }


def _source_digest(source_uri: str, clips: list[SourceClip]) -> str:
    """The source's own digest where it has a manifest, else one of its clips' names and labels."""
    manifest = storage.join(source_uri, storage.MANIFEST)
    known = storage.read_json(manifest).get("digest") if storage.exists(manifest) else None
    return known or config.digest([[c.name, c.speaker, c.emotion, c.sentence] for c in clips])


def _tidy(corpus: str) -> None:
    """Removes what only an unfinished ingest needs, and what a killed one has left: the work folder, halves of files, uncounted shards."""
    storage.remove(storage.join(corpus, WORK))
    for half in storage.list_files(corpus, storage.PART):
        storage.remove(half)
    for split in shards.SPLITS:
        counted = len(shards.shard_uris(corpus, split))
        for stale in storage.list_files(storage.join(corpus, split), ".parquet")[counted:]:
            storage.remove(stale)


# ---- teachers' outputs


def annotate(corpus_uri: str, role: str, progress: Progress = print) -> dict[str, Any]:
    """Computes what the teacher ``role`` sees in every clip, and stores it beside the shards; nothing where that was done.

    identity: ``[D]``, the normalised mean over every 5th frame. emotion: logits ``[T, K]``, computed at every 2nd frame and interpolated.

    Returns:
        role, digest of the network, shards.

    Raises:
        ArtifactError: no corpus, or no such teacher in it.
    """
    manifest = shards.read_corpus_manifest(corpus_uri)
    names = [shards.shard_name(split, i) for split in shards.SPLITS for i in range(manifest["splits"][split]["shards"])]
    storage.check_writable(storage.join(corpus_uri, "teachers", role))
    start_ray()
    return _annotate(corpus_uri, role, names, progress)


def _annotate(corpus: str, role: str, names: list[str], progress: Progress) -> dict[str, Any]:
    """Shards ``names`` ("split/part-00000.parquet") whose outputs are this network's already are passed over. The marker is written last."""
    network = storage.join(corpus, "teachers", role)
    digest = teachers.load(network).digest
    marker = storage.join(network, OUTPUTS)
    if storage.exists(marker) and storage.read_json(marker) == {"digest": digest, "shards": len(names)}:
        progress(f"annotate: {role}: already there")
        return {"role": role, "digest": digest, "shards": len(names)}
    storage.remove(marker)
    items = [{"shard": storage.join(corpus, n), "outputs": storage.join(network, n)} for n in names]
    gpus = int(ray.cluster_resources().get("GPU", 0))
    selector = node_selector("train" if gpus else "ingest")
    pool = ray.data.ActorPoolStrategy(min_size=1, max_size=max(1, gpus or int(ray.cluster_resources().get("CPU", 1))))
    data = ray.data.from_items(items, override_num_blocks=len(items)).map(
        _Annotator,
        fn_constructor_args=(network, role),
        compute=pool,
        num_gpus=1 if gpus else 0,
        num_cpus=1,
        label_selector=selector,
    )
    clips, said = 0, time.monotonic()
    for i, row in enumerate(data.iter_rows(), 1):
        clips += row["clips"]
        if time.monotonic() - said > _REPORT_SECONDS or i == len(items):
            said = time.monotonic()
            progress(f"annotate: {role}: {i}/{len(items)} shards, {clips} clips")
    storage.write_json(marker, {"digest": digest, "shards": len(names)})
    return {"role": role, "digest": digest, "shards": len(names)}


class _Annotator:
    """A teacher, loaded once an actor: one shard -> its outputs for it."""

    def __init__(self, network: str, role: str) -> None:
        self.network, self.role = teachers.load(network, "cuda" if torch.cuda.is_available() else "cpu"), role

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        ids = _ids(item["shard"])
        if ids is None or (self.network.digest, ids) != (shards.made_by(item["outputs"]), _ids(item["outputs"])):
            outputs = [
                shards.encode_output(clip_id, see(self.network, frames, self.role))
                for clip_id, frames in _frames(item["shard"])
            ]
            shards.write_shard(item["outputs"], outputs, shards.OUTPUT_SCHEMA, made_by=self.network.digest)
            ids = [o["id"] for o in outputs]
        return {"clips": len(ids)}


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
