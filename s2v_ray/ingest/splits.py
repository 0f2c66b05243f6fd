"""Assignment of clips to the splits train, val and test."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace

from s2v_ray.config import IngestConfig


@dataclass(frozen=True)
class Entry:
    """What the assignment depends on for one clip.

    Attributes:
        id: of the clip.
        speaker: label of the speaker.
        sentence: label of the sentence, or "".
        file: the file that the clip was cut from.
    """

    id: str
    speaker: str
    sentence: str
    file: str

    @property
    def group(self) -> str:
        """What stays in one split: all clips of a sentence, or of a file if the sentence is not known."""
        return self.sentence or f"file {self.file}"


def order_key(seed: int, name: str) -> str:
    """Returns a sort key that shuffles names in the same way on every platform."""
    return hashlib.sha256(f"{seed}|{name}".encode()).hexdigest()


def assign_splits(
    entries: Iterable[Entry], config: IngestConfig, seed: int, known: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Assigns clips to splits. The result depends on the set of clips, the seed and ``known`` only.

    ``ingest.split`` "within": whole sentences are held out, in seeded order, as long as every speaker keeps at
    least half of their clips in train; so the clip of a speaker with a single clip is in train. Pieces of a file
    without a known sentence stay together. Only if this leaves val or test empty, a sentence is divided between
    splits. "take": the same with files in place of sentences. "disjoint": whole speakers are held out.

    A new clip of a known sentence (with "take": of a known file; with "disjoint": of a known speaker) is added to the
    split of that sentence (file, speaker).

    Args:
        entries: all clips.
        config: kind of split and shares.
        seed: of the shuffle.
        known: clip id -> split, for clips whose split is fixed.

    Returns:
        clip id -> "train", "val" or "test".

    Raises:
        ValueError: too few speakers for a disjoint split.
    """
    known = known or {}
    clips = sorted(entries, key=lambda e: order_key(seed, e.id))
    if config.split == "take":
        clips = [replace(clip, sentence="") for clip in clips]
    shares = {"test": config.test_share, "val": config.val_share}
    if config.split == "disjoint":
        return _split_by_speaker(clips, shares, seed, {c.speaker: known[c.id] for c in clips if c.id in known})
    fixed = {c.group: known[c.id] for c in clips if c.id in known}
    quotas = {split: max(share * len(clips), 1.0) for split, share in shares.items() if share > 0}
    splits = {c.id: known.get(c.id, fixed.get(c.group, "train")) for c in clips}
    movable = {c.group for c in clips} - set(fixed)
    _hold_out(splits, clips, quotas, lambda e: order_key(seed, e.group), movable)
    if not known:
        _fill_empty_splits(splits, clips, quotas, seed)
    return splits


def _fill_empty_splits(splits: dict[str, str], clips: Sequence[Entry], quotas: dict[str, float], seed: int) -> None:
    """Gives a split that got no sentence a part of the other held-out clips, or else clips of any sentence."""
    for split in quotas:
        if split in splits.values():
            continue
        held_out = [c for c in clips if splits[c.id] != "train"]
        if len(held_out) > 1:
            count = max(round(len(held_out) * quotas[split] / sum(quotas.values())), 1)
            splits.update({c.id: split for c in held_out[:count]})
        else:
            _hold_out(splits, clips, {split: quotas[split]}, lambda e: order_key(seed, e.id))


def _hold_out(
    splits: dict[str, str],
    clips: Sequence[Entry],
    quotas: dict[str, float],
    key: Callable[[Entry], str],
    movable: Set[str] | None = None,
) -> None:
    """Moves clips from train to the other splits until each has its quota.

    Args:
        splits: clip id -> split; changed in place.
        clips: all clips.
        quotas: split -> number of clips.
        key: clips with the same key are moved together, in the order of the keys.
        movable: groups that may be moved; None: all.
    """
    units: dict[str, list[Entry]] = defaultdict(list)
    for clip in clips:
        if splits[clip.id] == "train" and (movable is None or clip.group in movable):
            units[key(clip)].append(clip)
    total = Counter(c.speaker for c in clips)
    in_train = Counter(c.speaker for c in clips if splits[c.id] == "train")
    size = Counter(splits.values())
    for _, unit in sorted(units.items()):
        split = max(quotas, key=lambda s: 1 - size[s] / quotas[s])
        if size[split] >= quotas[split]:
            return
        per_speaker = Counter(c.speaker for c in unit)
        if all(in_train[s] - n >= max(1, total[s] / 2) for s, n in per_speaker.items()):
            in_train -= per_speaker
            size[split] += len(unit)
            splits.update({c.id: split for c in unit})


def _split_by_speaker(
    clips: Sequence[Entry], shares: dict[str, float], seed: int, fixed: dict[str, str]
) -> dict[str, str]:
    """Holds out whole speakers; ``fixed`` maps speakers to their known split."""
    speakers = sorted({c.speaker for c in clips}, key=lambda s: order_key(seed, s))
    counts = {split: max(round(share * len(speakers)), 1) if share > 0 else 0 for split, share in shares.items()}
    needed = sum(counts.values())
    if needed >= len(speakers):
        raise ValueError(
            f"a speaker-disjoint split (ingest.split) needs more than {needed} speakers, the source has {len(speakers)}"
        )
    size = Counter(fixed.values())
    names = ["test"] * (counts["test"] - size["test"]) + ["val"] * (counts["val"] - size["val"])
    assigned = fixed | dict(zip((s for s in speakers if s not in fixed), names, strict=False))
    return {c.id: assigned.get(c.speaker, "train") for c in clips}
