from __future__ import annotations

from collections import defaultdict

import pytest

from s2v_ray.config import IngestConfig
from s2v_ray.ingest.splits import Entry, assign_splits, order_key


def entries(speakers: int, sentences: int, emotions: int, shared: bool = True) -> list[Entry]:
    return [
        Entry(f"{s}-{t}-{e}", f"speaker{s}", f"sentence {t}" if shared else f"sentence {s} {t}", f"{s}/{t}-{e}.mp4")
        for s in range(speakers)
        for t in range(sentences)
        for e in range(emotions)
    ]


def by_split(clips: list[Entry], splits: dict[str, str]) -> dict[str, list[Entry]]:
    groups: dict[str, list[Entry]] = defaultdict(list)
    for clip in clips:
        groups[splits[clip.id]].append(clip)
    return groups


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("seed", [0, 1])
def test_within_holds_out_sentences_and_keeps_every_speaker(shared: bool, seed: int) -> None:
    clips = entries(6, 10, 3, shared)
    groups = by_split(clips, assign_splits(clips, IngestConfig(), seed))
    sentences = {split: {c.sentence for c in group} for split, group in groups.items()}
    assert not sentences["train"] & sentences["val"]
    assert not sentences["train"] & sentences["test"]
    assert not sentences["val"] & sentences["test"]
    assert {c.speaker for c in groups["train"]} == {c.speaker for c in clips}
    assert len(groups["val"]) == len(groups["test"]) == 18  # a tenth each


def test_within_depends_on_the_seed_but_not_on_the_order() -> None:
    clips = entries(6, 10, 3)
    assert assign_splits(clips, IngestConfig(), 0) == assign_splits(clips[::-1], IngestConfig(), 0)
    assert assign_splits(clips, IngestConfig(), 0) != assign_splits(clips, IngestConfig(), 1)
    assert order_key(0, "a") == order_key(0, "a")
    assert order_key(0, "a") != order_key(1, "a")


def test_single_clips_are_in_train() -> None:
    clips = [*entries(1, 20, 1), Entry("x", "one clip", "another sentence", "x.mp4")]
    for seed in range(20):
        assert assign_splits(clips, IngestConfig(), seed)["x"] == "train"


def test_two_sentences_give_three_splits_and_a_sentence_of_its_own_for_train() -> None:
    clips = entries(5, 2, 4)  # as RAVDESS
    groups = by_split(clips, assign_splits(clips, IngestConfig(), 0))
    assert groups["val"] and groups["test"] and len({c.sentence for c in groups["train"]}) == 1
    assert not {c.sentence for c in groups["train"]} & {c.sentence for c in groups["val"] + groups["test"]}


def test_takes_are_held_out_with_their_sentences_in_train() -> None:
    clips = entries(5, 2, 20)  # two sentences, 20 files of each by each speaker
    config = IngestConfig(split="take", val_share=0.1, test_share=0.2)
    groups = by_split(clips, assign_splits(clips, config, 0))
    assert {split: len(group) for split, group in groups.items()} == {"train": 140, "val": 20, "test": 40}
    assert all({c.sentence for c in group} == {"sentence 0", "sentence 1"} for group in groups.values())
    assert {c.speaker for c in groups["train"]} == {c.speaker for c in clips}
    pieces = [Entry(f"{c.id}-{p}", c.speaker, c.sentence, c.file) for c in clips for p in range(2)]
    splits = assign_splits(pieces, config, 0)
    assert all(splits[f"{c.id}-0"] == splits[f"{c.id}-1"] for c in clips)


def test_pieces_of_one_file_stay_together() -> None:
    clips = [Entry(f"{f}-{p}", "me", "", f"{f}.mp4") for f in range(10) for p in range(5)]
    splits = assign_splits(clips, IngestConfig(), 0)
    assert all(len({splits[f"{f}-{p}"] for p in range(5)}) == 1 for f in range(10))
    one = [Entry(f"0-{p}", "me", "", "0.mp4") for p in range(20)]
    assert set(assign_splits(one, IngestConfig(), 0).values()) == {"train", "val", "test"}  # one file only: by pieces


def test_disjoint_splits_share_no_speaker() -> None:
    clips = entries(10, 3, 2)
    config = IngestConfig(split="disjoint", val_share=0.1, test_share=0.2)
    groups = by_split(clips, assign_splits(clips, config, 0))
    speakers = {split: {c.speaker for c in group} for split, group in groups.items()}
    assert {split: len(s) for split, s in speakers.items()} == {"train": 7, "val": 1, "test": 2}
    assert sum(len(s) for s in speakers.values()) == 10
    with pytest.raises(ValueError, match="needs more than 2 speakers"):
        assign_splits(entries(2, 3, 2), IngestConfig(split="disjoint"), 0)


@pytest.mark.parametrize("split", ["within", "disjoint"])
def test_added_clips_follow_their_sentence_or_speaker_and_move_no_other_clip(split: str) -> None:
    config = IngestConfig(split=split, val_share=0.2, test_share=0.2)
    old = entries(10, 10, 2)
    before = assign_splits(old, config, 0)
    new = [Entry(f"{c.id}-new", c.speaker, c.sentence, c.file) for c in old] + [
        Entry(f"fresh-{i}", f"fresh {i % 10}", f"fresh {i}", f"{i}") for i in range(40)
    ]
    after = assign_splits(old + new, config, 0, before)
    assert {c.id: after[c.id] for c in old} == before
    key = "sentence" if split == "within" else "speaker"
    home = {getattr(c, key): before[c.id] for c in old}
    assert all(after[c.id] == home[getattr(c, key)] for c in new if getattr(c, key) in home)
    fresh = {after[c.id] for c in new if c.id.startswith("fresh")}
    assert fresh == {"train", "val", "test"}  # the shares hold for added clips as well
