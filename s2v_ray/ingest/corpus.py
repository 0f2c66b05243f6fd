"""Second pass of ingest, planned by the driver: new clips, their shards, and the corpus's manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

from s2v_ray import config, shards, split_index, storage
from s2v_ray.config import Recipe
from s2v_ray.ingest.crop import file_of
from s2v_ray.ingest.rejects import QUALITY, Reason
from s2v_ray.ingest.sources import SourceClip
from s2v_ray.ingest.splits import Entry, assign_splits, order_key
from s2v_ray.ingest.staging import ClipRecord, RejectRecord

WORK = ".ingest"
"""Folder in the corpus for the results of an unfinished ingest; removed at the end."""
REJECTS = "rejects.parquet"
READERS = 16
"""Existing shards that are read concurrently: an object store takes tens of milliseconds for each."""
_LABELS = ["id", "speaker", "emotion", "sentence", "source", "num_frames"]
_NOT_COMPARED = ("ingest.max_reject_share", "ingest.source", "ingest.licence")


@dataclass(frozen=True)
class Shard:
    """A shard of a corpus, written or planned.

    Attributes:
        name: path in the corpus, such as "train/part-00000.parquet".
        split: train, val or test.
        clips: its clips in order.
    """

    name: str
    split: str
    clips: list[ClipRecord]

    @property
    def ids(self) -> list[str]:
        """Ids of its clips in order."""
        return [clip.id for clip in self.clips]


@dataclass(frozen=True)
class ExistingCorpus:
    """The result of earlier ingests.

    Attributes:
        shards: in the manifest's order.
        rejects: files and clips that were rejected.
        files: number of files that were processed.
        alignment: number of clips by alignment.
    """

    shards: list[Shard] = field(default_factory=list)
    rejects: list[RejectRecord] = field(default_factory=list)
    files: int = 0
    alignment: dict[str, int] = field(default_factory=dict)

    @property
    def clips(self) -> list[ClipRecord]:
        """All clips, shard by shard."""
        return [clip for shard in self.shards for clip in shard.clips]

    def processed_files(self) -> set[str]:
        """Returns the names of all clips and rejects, and of the files that they come from."""
        sources = [*(clip.source for clip in self.clips), *(reject.source for reject in self.rejects)]
        return {name for source in sources for name in (source, file_of(source))}


def read_existing(corpus: str, recipe: Recipe) -> ExistingCorpus:
    """Reads what earlier ingests have written; an empty corpus if there is none.

    Raises:
        ArtifactError: the corpus was made with other settings, or is damaged.
    """
    if not storage.exists(storage.join(corpus, storage.MANIFEST)):
        return ExistingCorpus()
    manifest = shards.read_corpus_manifest(corpus)
    previous = settings(Recipe()) | manifest.get("settings", {})  # an older corpus lacks keys that were added
    differences = [
        f"{key} {previous.get(key)!r} there, {value!r} here"
        for key, value in settings(recipe).items()
        if previous.get(key) != value
    ]
    if differences:
        raise storage.ArtifactError(
            f"{corpus} was made with other settings ({'; '.join(differences[:3])}): name another folder, or remove it"
        )
    rejects = [RejectRecord(**row) for row in shards.read_shard(storage.join(corpus, REJECTS))]
    return ExistingCorpus(list(_read_shards(corpus)), rejects, manifest["files"], manifest.get("alignment", {}))


def _read_shards(corpus: str) -> Iterator[Shard]:
    uris = [(split, uri) for split in shards.SPLITS for uri in shards.shard_uris(corpus, split)]
    with ThreadPoolExecutor(READERS, "read-shards") as pool:
        rows = pool.map(lambda known: shards.read_shard(known[1], _LABELS), uris)
        for (split, uri), found in zip(uris, rows, strict=True):
            clips = [ClipRecord(*(row[label] for label in _LABELS)) for row in found]
            yield Shard("/".join(uri.split("/")[-2:]), split, clips)


def settings(recipe: Recipe) -> dict[str, Any]:
    """Returns the recipe's settings that clips and splits depend on, by key.

    The largest share of rejects, the licence and the teachers are not among them.
    """
    sections = {"media": recipe.media, "ingest": recipe.ingest}
    flat = {
        f"{name}.{key}": value
        for name, section in sections.items()
        for key, value in section.model_dump(mode="json").items()
    }
    return {key: value for key, value in flat.items() if key not in _NOT_COMPARED} | {"seed": recipe.seed}


def drop_duplicates(
    existing: Iterable[ClipRecord], added: Iterable[ClipRecord], rejects: Iterable[RejectRecord]
) -> tuple[list[ClipRecord], list[RejectRecord]]:
    """Removes clips whose content occurs before.

    Returns:
        the clips with new content; and all rejects, including the duplicates, sorted by name.
    """
    first = {clip.id: clip.source for clip in existing}
    unique = []
    by_source = {reject.source: reject for reject in rejects}
    for clip in added:
        if clip.id in first:
            detail = f"the same as {first[clip.id]}"
            by_source[clip.source] = RejectRecord(clip.source, Reason.DUPLICATE.value, detail)
        else:
            first[clip.id] = clip.source
            unique.append(clip)
    return unique, sorted(by_source.values(), key=lambda r: r.source)


def check_rejects(files: int, clips: Sequence[ClipRecord], rejects: Sequence[RejectRecord], recipe: Recipe) -> None:
    """Checks the share of rejects.

    Args:
        files: number of files of the corpus.
        clips: all clips of the corpus.
        rejects: all rejects of the corpus; those that the recipe's limits of quality ask for do not count.
        recipe: config with ``ingest.max_reject_share``.

    Raises:
        ArtifactError: no clip is left, or more files are rejected than ``ingest.max_reject_share`` allows.
    """
    unusable = [reject for reject in rejects if reject.reason not in QUALITY]
    if clips and len(unusable) <= recipe.ingest.max_reject_share * files:
        return
    counts = ", ".join(f"{reason} {n}" for reason, n in sorted(Counter(r.reason for r in rejects).items()))
    limit = f"more than ingest.max_reject_share={recipe.ingest.max_reject_share}" if clips else "none is left"
    first = (unusable or rejects)[0]
    raise storage.ArtifactError(
        f"{len(unusable) if clips else len(rejects)} of {files} files were rejected ({counts}), {limit}; "
        f"the first: {first.source}: {first.detail}"
    )


def plan_shards(existing: ExistingCorpus, clips: Sequence[ClipRecord], recipe: Recipe) -> list[Shard]:
    """Assigns new clips to splits and new shards; existing shards stay as they are."""
    known = {clip.id: shard.split for shard in existing.shards for clip in shard.clips}
    entries = [Entry(c.id, c.speaker, c.sentence, file_of(c.source)) for c in (*existing.clips, *clips)]
    splits = assign_splits(entries, recipe.ingest, recipe.seed, known)
    size = recipe.ingest.clips_per_shard
    plan = []
    for split in shards.SPLITS:
        members = sorted((c for c in clips if splits[c.id] == split), key=lambda c: order_key(recipe.seed, c.id))
        number = sum(shard.split == split for shard in existing.shards)
        plan += [
            Shard(shards.shard_name(split, number + i // size), split, members[i : i + size])
            for i in range(0, len(members), size)
        ]
    return plan


@dataclass(frozen=True)
class ShardAssembly:
    """A shard to write from staged clips.

    Attributes:
        uri: of the shard.
        ids: of its clips in order.
        parts: URI of the staged shard and row group of each clip.
    """

    uri: str
    ids: list[str]
    parts: list[tuple[str, int]]

    @classmethod
    def of(cls, shard: Shard, corpus: str) -> ShardAssembly:
        """Returns the assembly of a planned shard of ``corpus``."""
        return cls(storage.join(corpus, shard.name), shard.ids, [(c.staged_in, c.row_group) for c in shard.clips])


def write_planned_shard(assembly: ShardAssembly) -> int:
    """Writes a shard unless it exists; returns its number of clips.

    Raises:
        ArtifactError: the staged clips are not the planned ones: storage that workers do not share, or that lost files.
    """
    if read_ids(assembly.uri) != assembly.ids:
        rows = [row for uri, group in assembly.parts for row in shards.read_rows(uri, int(group))]
        if [r["id"] for r in rows] != assembly.ids:
            raise storage.ArtifactError(
                f"staged clips of {assembly.uri} are not those that were planned: "
                f"remove {WORK} in the corpus, and ingest again"
            )
        shards.write_shard(assembly.uri, rows)
    return len(assembly.ids)


def read_ids(shard: str) -> list[str] | None:
    """Returns the ids of a shard's clips; None if the shard is missing or damaged."""
    try:
        return [row["id"] for row in shards.read_shard(shard, ["id"])]
    except (FileNotFoundError, storage.ArtifactError):
        return None


def corpus_manifest(
    made: Sequence[Shard], files: int, rejects: Sequence[RejectRecord], recipe: Recipe
) -> dict[str, Any]:
    """Returns the content of a corpus's manifest: counts, labels, settings and digests.

    Args:
        made: all shards of the corpus.
        files: number of files that were processed.
        rejects: all rejects.
        recipe: config of the ingest.
    """
    clips = [clip for shard in made for clip in shard.clips]
    splits = {}
    for split in shards.SPLITS:
        members = [shard for shard in made if shard.split == split]
        splits[split] = {
            "clips": sum(len(shard.clips) for shard in members),
            "frames": sum(clip.frames for shard in members for clip in shard.clips),
            "shards": len(members),
        }
    return {
        "size": recipe.media.size,
        "licence": recipe.ingest.licence,
        "splits": splits,
        "speakers": sorted({clip.speaker for clip in clips}),
        "emotions": sorted({clip.emotion for clip in clips} - {""}),
        "files": files,
        "rejects": dict(sorted(Counter(r.reason for r in rejects).items())),
        "seed": recipe.seed,
        "settings": settings(recipe),
        "config_digest": recipe.digest(),
        "digest": config.digest(sorted([shard.name, shard.ids] for shard in made)),
    }


def write_indexes(corpus: str, made: Sequence[Shard]) -> None:
    """Writes the index of every split from all shards of the corpus."""
    for split in shards.SPLITS:
        lengths = [[clip.frames for clip in shard.clips] for shard in made if shard.split == split]
        split_index.write_index(corpus, split, lengths)


def count_alignment(existing: ExistingCorpus, added: Sequence[ClipRecord]) -> dict[str, int]:
    """Returns the manifest's number of clips by alignment: "clip" or "smooth" (see ``media.align``)."""
    return dict(sorted((Counter(existing.alignment) + Counter(clip.alignment for clip in added)).items()))


def source_digest(source_uri: str, clips: Sequence[SourceClip]) -> str:
    """Returns the digest in the source's manifest; without one, a digest of the names and labels of its clips."""
    manifest = storage.join(source_uri, storage.MANIFEST)
    recorded = storage.read_json(manifest).get("digest") if storage.exists(manifest) else None
    return recorded or config.digest([[c.name, c.speaker, c.emotion, c.sentence] for c in clips])


def write_rejects(corpus: str, rejects: Sequence[RejectRecord]) -> None:
    """Writes the table of rejects of a corpus."""
    shards.write_shard(storage.join(corpus, REJECTS), [asdict(r) for r in rejects], shards.REJECT_SCHEMA)


def remove_leftovers(corpus: str) -> None:
    """Removes the work folder, partial files of killed processes, and shards that the manifest does not count."""
    storage.remove(storage.join(corpus, WORK))
    for partial in storage.list_files(corpus, storage.PART):
        storage.remove(partial)
    for split in shards.SPLITS:
        counted = len(shards.shard_uris(corpus, split))
        for stale in storage.list_files(storage.join(corpus, split), ".parquet")[counted:]:
            storage.remove(stale)
