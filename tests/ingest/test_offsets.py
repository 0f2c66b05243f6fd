"""Offsets of clips that are shifted on purpose are measured exactly, and ingest corrects the files by them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from s2v_ray import cli, shards, storage
from s2v_ray.clip import Clip
from s2v_ray.config import IngestConfig, RecipeError, load_recipe
from s2v_ray.ingest import offsets as offset
from s2v_ray.ingest import ray_pipeline as pipeline
from s2v_ray.ingest.offsets import Offset
from s2v_ray.ingest.sources import SourceClip
from s2v_ray.media.regions import mouth_box
from s2v_ray.media.timing import SAMPLE_RATE, SAMPLES_PER_FRAME, frames_to_samples
from s2v_ray.models.sync import SyncNetwork, open_sync, sync_uri
from s2v_ray.training.teach import train_sync
from tests.helpers.recipes import tiny_recipe

SIZE, MAX_SHIFT = 32, 5
RECIPE = tiny_recipe(gan={"discriminators": {"width": 8}, "sync": {"steps": 150, "batch": 64, "lr": 3e-3}})


def clip(i: int, delay: int = 0, frames: int = 50, speaker: str = "anna", source: str = "") -> Clip:
    """The mouth is as bright as the tone is loud, ``delay`` frames earlier. Nothing is wrapped around or padded."""
    rng = np.random.default_rng(i)
    loudness = np.convolve(rng.random(frames + 2 * MAX_SHIFT + 2), np.ones(3) / 3, "valid").astype(np.float32)
    loudness = (loudness - loudness.min()) / np.ptp(loudness)
    tone = (
        0.9
        * np.sin(2 * np.pi * 440 * np.arange(len(loudness) * SAMPLES_PER_FRAME) / SAMPLE_RATE)
        * np.repeat(loudness, SAMPLES_PER_FRAME)
    )
    pictures = np.full((frames, SIZE, SIZE, 3), 128, np.uint8)
    y0, y1, x0, x1 = mouth_box(SIZE)
    pictures[:, y0:y1, x0:x1] = (255 * loudness[MAX_SHIFT : MAX_SHIFT + frames])[:, None, None, None]
    speech = tone[frames_to_samples(MAX_SHIFT - delay) :][: frames_to_samples(frames)].astype(np.float32)
    return Clip(
        f"c{i}", pictures, speech, speaker, "", "", source or f"{speaker}/{i}.mp4", np.zeros((frames, 5, 2), np.float32)
    )


def write_corpus(uri: str, **splits: list[Clip]) -> str:
    counts = {split: {"shards": int(split in splits)} for split in shards.SPLITS}
    for split, clips in splits.items():
        shards.write_shard(storage.join(uri, split, "part-00000.parquet"), [shards.encode_clip(c) for c in clips])
    storage.write_manifest(
        uri, "corpus", shards.CORPUS_SCHEMA, size=SIZE, splits=counts, digest="d", config_digest="c", parents={}
    )
    return uri


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> str:
    """URI of a sync network that was trained on synchronous clips."""
    uri = write_corpus(
        str(tmp_path_factory.mktemp("step")), train=[clip(i) for i in range(24)], val=[clip(i) for i in range(24, 32)]
    )
    train_sync(uri, RECIPE, "expert")
    return sync_uri(uri, "expert")


@pytest.fixture(scope="module")
def network(trained: str) -> SyncNetwork:
    return open_sync(trained)[0]


# ---- measuring


def test_every_shift_is_found_in_every_clip(network: SyncNetwork) -> None:
    found = {
        delay: offset.measure([clip(100 + i, delay) for i in range(4)], network)
        for delay in range(-MAX_SHIFT, MAX_SHIFT + 1)
    }
    for delay, (rows, short) in found.items():
        assert short == 0
        assert [(r.level, r.frames) for r in rows] == [(level, delay) for level in ("source", "speaker", *["clip"] * 4)]
    lowest = min(r.confidence for rows, _ in found.values() for r in rows)

    def confidence(one: Clip) -> float:
        return offset.measure([one], network)[0][0].confidence

    for i in range(4):
        one, other = clip(100 + i), clip(200 + i)
        assert confidence(Clip(**{**vars(one), "speech": np.zeros_like(one.speech)})) < 0.5 * lowest
        assert confidence(Clip(**{**vars(one), "speech": other.speech})) < 0.75 * lowest


def test_a_sync_network_for_another_size_gets_the_same_mouth(trained: str) -> None:
    half, sha256 = open_sync(trained)
    double, _ = open_sync(trained, size=2 * SIZE)
    assert len(sha256) == 64
    one = clip(7, 3)
    large = Clip(**{**vars(one), "frames": one.frames.repeat(2, 1).repeat(2, 2)})
    (a, *_), (b, *_) = (offset.measure([c], n)[0] for c, n in ((one, half), (large, double)))
    assert a.frames == b.frames == 3


def test_only_shifts_with_enough_partners_count(network: SyncNetwork) -> None:
    windows = 12 - network.window + 1
    curve = offset.distances(network, clip(0, frames=12), max_offset=6)
    assert np.isfinite(curve).tolist() == [abs(k) <= windows - 5 for k in range(-6, 7)]
    whole = offset.distances(network, clip(0, frames=30), 10)
    shifted = offset.distances(network, clip(0, delay=2, frames=30), 10)
    assert np.nanargmin(shifted) - np.nanargmin(whole) == 2


def test_short_clips_are_counted(network: SyncNetwork) -> None:
    rows, short = offset.measure([clip(0, frames=3), clip(1, frames=6), clip(2, 1)], network)
    assert short == 2
    assert [(r.level, r.name, r.frames, r.clips) for r in rows] == [
        ("source", "", 1, 1),
        ("speaker", "anna", 1, 1),
        ("clip", "anna/2.mp4", 1, 1),
    ]


def test_curves_are_averaged_before_the_best_is_taken() -> None:
    nan = float("nan")
    curves = [
        np.array([0.8, 0.9, 1.0, 0.7, 1.1]),
        np.array([1.2, 0.7, 1.0, 0.8, nan]),
        np.array([1.0, 1.0, 1.0, nan, nan]),
    ]
    np.testing.assert_allclose(
        offset.combine(curves), [1.0, 2.6 / 3, 1.0, 0.75, nan]
    )  # the last counts in one of three
    row = offset.summarise("speaker", "anna", curves)
    assert (row.frames, row.clips) == (1, 3)
    assert row.distance == pytest.approx(0.75)
    assert row.confidence == pytest.approx((1.0 + 2.6 / 3) / 2 - 0.75)
    assert offset.summarise("clip", "x", [np.full(5, 1.3)]) == Offset("clip", "x", 0, 0.0, 1.3, 1)


def test_pieces_of_a_file_are_measured_together(network: SyncNetwork) -> None:
    pieces = [clip(0, 2, source="long.mp4#0.00s"), clip(1, 2, source="long.mp4#12.40s"), clip(2, 0, source="a#1.mp4")]
    rows, _ = offset.measure(pieces, network)
    assert {(r.name, r.frames, r.clips) for r in rows if r.level == "clip"} == {("long.mp4", 2, 2), ("a#1.mp4", 0, 1)}


# ---- the command, and what ingest makes of it


@pytest.fixture
def measured(tmp_path: Path, trained: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Offsets of a corpus: Anna is 3 frames late except in one clip, Bob 2 early; one clip is silent."""
    anna = [clip(i, 1 if i == 302 else 3) for i in range(300, 304)]
    bob = [clip(i, -2, speaker="bob") for i in range(400, 403)]
    bob[1] = Clip(**{**vars(bob[1]), "speech": np.zeros_like(bob[1].speech)})
    corpus = write_corpus(str(tmp_path / "corpus"), train=[*anna[:2], *bob[:2]], val=anna[2:3], test=[anna[3], bob[2]])
    out = str(tmp_path / "offsets")
    assert cli.main(["offsets", corpus, out, "--sync", trained, "--json", str(tmp_path / "out.json")]) == 0
    return out


def settings(level: str, offsets: str, min_confidence: float = 0.2) -> IngestConfig:
    return load_recipe(
        "debug", [f"ingest.offset={level}", f"ingest.offsets={offsets}", f"ingest.offset_confidence={min_confidence}"]
    ).ingest


FILES = [SourceClip("", f"anna/{i}.mp4", "anna") for i in range(300, 304)] + [
    SourceClip("", f"bob/{i}.mp4", "bob") for i in range(400, 403)
]
FILES += [SourceClip("", "bob/new.mp4", "bob"), SourceClip("", "carl/new.mp4", "carl")]


def test_the_command_measures_by_source_speaker_and_file(
    measured: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["artifacts"] == {"offsets": measured}
    result = report["result"]
    assert {name: o["frames"] for name, o in result["speakers"].items()} == {"anna": 3, "bob": -2}
    assert result["source"]["clips"] == 7 and result["short"] == 0
    assert result["clips"]["3"] == 3 and result["clips"]["1"] == 1 and sum(result["clips"].values()) == 7
    assert "anna                           +3" in capsys.readouterr().out
    assert storage.read_manifest(measured, "offsets", offset.OFFSETS_SCHEMA)["parents"]["corpus"] == "d"


def test_the_finest_level_with_enough_confidence_is_used(measured: str) -> None:
    assert offset.apply_offsets(FILES, IngestConfig()) == FILES
    everywhere = offset.read_offsets(measured)["source", ""].frames
    delay = {
        level: [c.audio_delay for c in offset.apply_offsets(FILES, settings(level, measured))]
        for level in offset.LEVELS
    }
    assert delay["speaker"][:8] == [3, 3, 3, 3, -2, -2, -2, -2]
    # The silent clip, and the one that was not measured, get Bob's offset.
    assert delay["clip"][:8] == [3, 3, 1, 3, -2, -2, -2, -2]
    confidence = offset.read_offsets(measured)["source", ""].confidence
    source = settings("source", measured, min_confidence=confidence)
    assert [c.audio_delay for c in offset.apply_offsets(FILES, source)] == [everywhere] * len(FILES)
    assert {c.audio_delay for c in offset.apply_offsets(FILES, settings("clip", measured, min_confidence=1.9))} == {0}
    only_sync = IngestConfig(min_sync=0.2, offsets=measured)
    unmoved = offset.apply_offsets(FILES, only_sync)
    assert {c.audio_delay for c in unmoved} == {0}
    confidences = [c.sync_confidence for c in unmoved]
    assert confidences[5] is not None and confidences[5] < 0.05, "the silent clip"
    assert min(c for i, c in enumerate(confidences[:7]) if c is not None and i != 5) > 0.2
    assert confidences[7:] == [None, None], "not measured"
    by_clip = settings("clip", measured)
    files = offset.describe_correction(offset.apply_offsets(FILES, by_clip), by_clip)["files"]
    assert files["3"] == 3 + (everywhere == 3) and sum(files.values()) == len(FILES)


def test_offsets_of_a_corrected_corpus_are_refused(measured: str, tmp_path: Path, trained: str) -> None:
    corpus = str(tmp_path / "corpus")  # the one that was measured
    counts = {split: {"shards": 1} for split in shards.SPLITS}
    storage.write_manifest(
        corpus,
        "corpus",
        shards.CORPUS_SCHEMA,
        size=SIZE,
        splits=counts,
        digest="d",
        offset={"level": "speaker"},
        parents={},
    )
    assert cli.main(["offsets", corpus, str(tmp_path / "left"), "--sync", trained]) == 0
    with pytest.raises(storage.ArtifactError, match="corrected already"):
        offset.apply_offsets(FILES, settings("source", str(tmp_path / "left")))


def test_errors_of_measurement_and_of_offsets(
    measured: str, tmp_path: Path, trained: str, capsys: pytest.CaptureFixture[str]
) -> None:
    table = Path(measured, "offsets.parquet")
    table.write_bytes(table.read_bytes()[:-9])
    with pytest.raises(storage.ArtifactError, match="damaged"):
        offset.read_offsets(measured)
    with pytest.raises(storage.ArtifactError, match="there is no offsets at"):
        offset.read_offsets(str(tmp_path / "nowhere"))
    short = write_corpus(str(tmp_path / "short"), train=[clip(0, frames=6)])
    for argv, message in (
        ([short, "--sync", trained], "1 are too short for windows of 5 frames"),
        ([short, "--sync", short], "is a corpus, not a sync"),
        ([short, "--sync", trained, "--max-offset", "0"], "at least 1 frame"),
    ):
        capsys.readouterr()
        assert cli.main(["offsets", argv[0], str(tmp_path / "out"), *argv[1:]]) == 1
        assert message in capsys.readouterr().err
        assert not Path(tmp_path, "out", "manifest.json").exists()
    for override in ("ingest.offset=clip", "ingest.offsets=somewhere"):
        with pytest.raises(RecipeError, match="go together"):
            load_recipe("debug", [override])


def test_ingest_applies_the_offsets_and_records_them(
    measured: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Staged(Exception):
        pass

    staged: list[SourceClip] = []

    def stage_files(files: list[SourceClip], *_: object) -> None:
        staged.extend(files)
        raise Staged

    monkeypatch.setattr(pipeline, "list_clips", lambda uri, source: ("folder", FILES))
    monkeypatch.setattr(pipeline, "start_ray", lambda: None)
    monkeypatch.setattr(pipeline, "_stage_files", stage_files)
    corrected = load_recipe("debug").model_copy(update={"ingest": settings("speaker", measured)})
    with pytest.raises(Staged):
        pipeline.ingest(str(tmp_path), str(tmp_path / "new"), corrected)
    assert [c.audio_delay for c in staged[:8]] == [3, 3, 3, 3, -2, -2, -2, -2]
    described = offset.describe_correction(staged, corrected.ingest)
    digest = storage.read_manifest(measured, "offsets", offset.OFFSETS_SCHEMA)["digest"]
    assert described["level"] == "speaker" and described["offsets"] == digest
    assert sum(described["files"].values()) == len(FILES)
