"""Files made to order go through all stages; a stand-in finds the face, so that only ingest itself is tested."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from s2v_ray.clip import Clip
from s2v_ray.config import IngestConfig, parse_recipe
from s2v_ray.ingest import scan as stages
from s2v_ray.ingest.scan import Entry, Process, Reason, Reject, assign_splits
from s2v_ray.ingest.sources import SourceClip
from s2v_ray.media import face, video
from tests.helpers.videos import flash_and_beep, make_video

RECIPE = parse_recipe(
    {
        "media": {"size": 32, "smoothing": 0.0},
        "gan": {"generator": {"channels": [8, 8, 8, 8]}},
        "ingest": {"min_face": 16},
    }
)
POINTS = face.TEMPLATE * 56 + [20, 4]


class Finder:
    """Finds the faces it is told."""

    def __init__(self, *boxes: tuple[float, float, float, float]) -> None:
        self.faces = [face.Detection(b, POINTS, 1.0) for b in boxes]
        self.looked = 0

    def detect(self, frame: np.ndarray) -> list[face.Detection]:
        self.looked += 1
        return self.faces


@pytest.fixture
def finder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Finder]:
    one = Finder((20, 4, 76, 60))
    monkeypatch.setattr(stages, "_detector", lambda name: one)
    yield one


def process(path: Path, recipe: object = RECIPE, truth: str = "") -> list[Clip]:
    return Process(recipe).process(SourceClip(str(path), path.name, "anna", "happy", "hello", truth))  # type: ignore[arg-type]


def reason(path: Path, recipe: object = RECIPE, truth: str = "") -> Reason:
    with pytest.raises(Reject) as caught:
        process(path, recipe, truth)
    return caught.value.reason


def onsets(clip: Clip) -> tuple[int, float]:
    """The frame of the flash, and the beep's start in frames."""
    return int((clip.frames.mean((1, 2, 3)) > 120).argmax()), int((np.abs(clip.speech) > 0.1).argmax()) / 640


VARIABLE = np.sort(np.random.default_rng(0).choice(np.arange(0, 2000, 7), 90, replace=False)) / 1000


@pytest.mark.parametrize(
    ("times", "rate", "channels", "late"),
    [
        (np.arange(50) / 25, 16_000, 1, 0.0),
        (np.arange(120) / 60, 44_100, 2, 0.0),
        (np.arange(48) * 1001 / 24_000, 48_000, 1, 0.0),
        (VARIABLE - VARIABLE[0], 22_050, 1, 0.0),
        (np.arange(50) / 25, 8_000, 2, 0.0),
        (np.arange(50) / 25, 16_000, 1, 0.32),
        (np.arange(60) / 30, 16_000, 1, 0.5),
        (0.24 + np.arange(50) / 25, 16_000, 1, 0.0),
    ],
    ids=["25", "60", "23.976", "variable", "8k-stereo", "sound-late", "30-sound-late", "picture-late"],
)
def test_flash_and_beep_stay_together(
    tmp_path: Path, finder: Finder, times: np.ndarray, rate: int, channels: int, late: float
) -> None:
    at = float(times[np.searchsorted(times, 1.2)])
    frames, sound = flash_and_beep(at, times, 2.2, rate, channels, late)
    (clip,) = process(make_video(tmp_path / "a.mkv", times, frames, sound, rate, late))
    flash, beep = onsets(clip)
    begin = max(float(times[0]), late)
    assert abs(flash - beep) <= 0.55  # half a frame: pictures stand on a grid, sound does not
    assert abs(beep / 25 + begin - at) <= 0.02 + 0.003
    assert len(clip.speech) == len(clip.frames) * 640
    assert abs(len(clip.frames) / 25 - (float(times[-1]) + 0.03 - begin)) < 0.06


def test_faces_are_looked_for_every_third_frame_and_cropped(tmp_path: Path, finder: Finder) -> None:
    frames, sound = flash_and_beep(0.5, np.arange(30) / 25, 1.2, 16_000)
    (clip,) = process(make_video(tmp_path / "a.mkv", np.arange(30) / 25, frames, sound))
    assert finder.looked == 10
    assert clip.frames.shape == (30, 32, 32, 3)
    assert np.allclose(clip.landmarks, face.TEMPLATE * 32, atol=1e-3)
    assert (clip.speaker, clip.emotion, clip.sentence, clip.source, clip.mouth_opening) == (
        "anna",
        "happy",
        "hello",
        "a.mkv",
        None,
    )


def test_known_landmarks_need_no_detector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "_detector", lambda name: pytest.fail("a detector was asked"))
    frames, sound = flash_and_beep(0.5, np.arange(30) / 25, 1.2, 16_000)
    video.write_mp4(tmp_path / "a.mp4", frames, sound[0].astype(np.float32))
    landmarks = np.tile(POINTS, (30, 1, 1)) + np.linspace(0, 8, 30)[:, None, None]
    truth = tmp_path / "a.json"
    truth.write_text(json.dumps({"landmarks": landmarks.tolist(), "mouth_opening": np.linspace(0, 1, 30).tolist()}))
    (clip,) = process(tmp_path / "a.mp4", truth=str(truth))
    assert len(clip.frames) == 30 and onsets(clip)[0] == 13
    assert clip.mouth_opening is not None and np.allclose(clip.mouth_opening, np.linspace(0, 1, 30))
    assert np.allclose(clip.landmarks, face.TEMPLATE * 32, atol=1e-3)
    truth.write_text(json.dumps({"landmarks": landmarks[:-1].tolist()}))
    assert reason(tmp_path / "a.mp4", truth=str(truth)) == Reason.OUT_OF_RANGE


def test_long_takes_are_cut_into_even_pieces(tmp_path: Path, finder: Finder) -> None:
    recipe = RECIPE.model_copy(update={"ingest": RECIPE.ingest.model_copy(update={"max_seconds": 1.0})})
    frames, sound = flash_and_beep(1.0, np.arange(60) / 25, 2.4, 16_000)
    path = make_video(tmp_path / "a.mkv", np.arange(60) / 25, frames, sound)
    whole, pieces = process(path)[0], process(path, recipe)
    assert [len(c.frames) for c in pieces] == [20, 20, 20]
    assert np.array_equal(np.concatenate([c.frames for c in pieces]), whole.frames)
    assert np.array_equal(np.concatenate([c.speech for c in pieces]), whole.speech)
    assert [c.source for c in pieces] == ["a.mkv#0.00s", "a.mkv#0.80s", "a.mkv#1.60s"]


def test_ids_come_from_content(tmp_path: Path, finder: Finder) -> None:
    times = np.arange(30) / 25
    frames, sound = flash_and_beep(0.5, times, 1.2, 16_000)
    first = process(make_video(tmp_path / "a.mkv", times, frames, sound))[0]
    again = process(make_video(tmp_path / "b.mkv", times, frames, sound))[0]
    other = process(make_video(tmp_path / "c.mkv", times, frames, sound * 0.5))[0]
    assert first.id == again.id != other.id
    assert (
        stages.content_id(np.zeros((1, 1, 1, 3), np.uint8), np.zeros(0, np.float32)) == "709e80c88487a2411e1e"
    )  # of three zero bytes


def test_rejects_say_why(tmp_path: Path, finder: Finder) -> None:
    times = np.arange(50) / 25
    frames, sound = flash_and_beep(0.5, times, 2.0, 16_000)
    assert reason(make_video(tmp_path / "mute.mkv", times, frames)) == Reason.NO_SOUND
    assert reason(make_video(tmp_path / "silent.mkv", times, frames, sound * 0)) == Reason.NO_SOUND
    assert reason(make_video(tmp_path / "short.mkv", times[:10], frames[:10], sound)) == Reason.TOO_SHORT
    assert reason(make_video(tmp_path / "apart.mkv", times, frames, sound, sound_start=1.5)) == Reason.TOO_SHORT
    (tmp_path / "noise.mp4").write_bytes(b"no video " * 100)
    assert reason(tmp_path / "noise.mp4") == Reason.UNREADABLE
    with pytest.raises(Reject) as told:
        process(tmp_path / "noise.mp4")
    assert (
        "the file cannot be read as sound or video" in told.value.detail and str(tmp_path) not in told.value.detail
    ), "the same wherever it lies"
    good = make_video(tmp_path / "good.mkv", times, frames, sound)
    finder.faces = []
    assert reason(good) == Reason.NO_FACE
    finder.faces = Finder((20, 4, 76, 60), (76, 4, 126, 60)).faces
    assert reason(good) == Reason.SEVERAL_FACES
    finder.faces = Finder((20, 4, 76, 60), (30, 10, 60, 55)).faces  # a part of the same face
    assert len(process(good)) == 1
    finder.faces = [face.Detection((0, 0, 9, 9), POINTS / 8, 1.0)]
    assert reason(good) == Reason.SMALL_FACE
    finder.faces = [face.Detection((0, 0, 9, 9), POINTS + 500, 1.0)]
    assert reason(good) == Reason.OUT_OF_RANGE


def test_a_torn_file_is_truncated(tmp_path: Path, finder: Finder) -> None:
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 255, (64, 96, 3), dtype=np.uint8) for _ in range(100)]
    video.write_mp4(tmp_path / "a.mp4", frames, rng.normal(0, 0.1, 64_000).astype(np.float32).clip(-1, 1))
    assert len(process(tmp_path / "a.mp4")) == 1
    data = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "b.mp4").write_bytes(data[: len(data) // 2])
    assert reason(tmp_path / "b.mp4") == Reason.TRUNCATED


# ---- splits


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
    said = {split: {c.sentence for c in group} for split, group in groups.items()}
    assert not said["train"] & said["val"] and not said["train"] & said["test"] and not said["val"] & said["test"]
    assert {c.speaker for c in groups["train"]} == {c.speaker for c in clips}
    assert len(groups["val"]) == len(groups["test"]) == 18  # a tenth each


def test_within_is_the_same_whatever_the_order_and_another_for_another_seed() -> None:
    clips = entries(6, 10, 3)
    assert (
        assign_splits(clips, IngestConfig(), 0)
        == assign_splits(clips[::-1], IngestConfig(), 0)
        != assign_splits(clips, IngestConfig(), 1)
    )


def test_single_clips_are_in_train() -> None:
    clips = [*entries(1, 20, 1), Entry("x", "lonely", "unheard of", "x.mp4")]
    for seed in range(20):
        assert assign_splits(clips, IngestConfig(), seed)["x"] == "train"


def test_two_sentences_still_give_three_splits_with_train_apart() -> None:
    clips = entries(5, 2, 4)  # as RAVDESS
    groups = by_split(clips, assign_splits(clips, IngestConfig(), 0))
    assert groups["val"] and groups["test"] and len({c.sentence for c in groups["train"]}) == 1
    assert not {c.sentence for c in groups["train"]} & {c.sentence for c in groups["val"] + groups["test"]}


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
def test_added_clips_move_none_that_are_there_and_follow_their_sentence_or_speaker(split: str) -> None:
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
    assert {after[c.id] for c in new if c.id.startswith("fresh")} == {
        "train",
        "val",
        "test",
    }  # the shares hold for what is added, too
