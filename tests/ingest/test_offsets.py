"""Offsets of clips that were shifted on purpose are found exactly, and ingest's correction gives back the clip in step."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from s2v_ray import cli, shards, storage
from s2v_ray.clip import Clip
from s2v_ray.config import IngestConfig, RecipeError, load_recipe, parse_recipe
from s2v_ray.ingest import offsets as offset
from s2v_ray.ingest import ray_pipeline as pipeline
from s2v_ray.ingest import scan as stages
from s2v_ray.ingest.offsets import Offset
from s2v_ray.ingest.scan import Process
from s2v_ray.ingest.sources import SourceClip
from s2v_ray.media import face
from s2v_ray.media.face import mouth_box
from s2v_ray.media.timing import SAMPLE_RATE, SAMPLES_PER_FRAME, frames_to_samples
from s2v_ray.models.sync import SyncNetwork, open_sync, sync_uri
from s2v_ray.training.tasks.sync import train_sync
from tests.helpers.videos import make_video

SIZE, MOST = 32, 5
RECIPE = parse_recipe(
    {
        "media": {"size": SIZE},
        "gan": {
            "generator": {"channels": [8, 8, 8, 8]},
            "discriminators": {"width": 8},
            "sync": {"steps": 150, "batch": 64, "lr": 3e-3},
        },
    }
)


def clip(i: int, late: int = 0, frames: int = 50, speaker: str = "anna", source: str = "") -> Clip:
    """A mouth as bright as the tone is loud, the tone ``late`` frames after it. Nothing is wrapped around or padded."""
    rng = np.random.default_rng(i)
    loudness = np.convolve(rng.random(frames + 2 * MOST + 2), np.ones(3) / 3, "valid").astype(np.float32)
    loudness = (loudness - loudness.min()) / np.ptp(loudness)
    tone = (
        0.9
        * np.sin(2 * np.pi * 440 * np.arange(len(loudness) * SAMPLES_PER_FRAME) / SAMPLE_RATE)
        * np.repeat(loudness, SAMPLES_PER_FRAME)
    )
    pictures = np.full((frames, SIZE, SIZE, 3), 128, np.uint8)
    y0, y1, x0, x1 = mouth_box(SIZE)
    pictures[:, y0:y1, x0:x1] = (255 * loudness[MOST : MOST + frames])[:, None, None, None]
    speech = tone[frames_to_samples(MOST - late) :][: frames_to_samples(frames)].astype(np.float32)
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
    """URI of a sync network that was trained on clips in step."""
    uri = write_corpus(
        str(tmp_path_factory.mktemp("step")), train=[clip(i) for i in range(24)], val=[clip(i) for i in range(24, 32)]
    )
    train_sync(uri, RECIPE, "expert", lambda line: None)
    return sync_uri(uri, "expert")


@pytest.fixture(scope="module")
def network(trained: str) -> SyncNetwork:
    return open_sync(trained)[0]


# ---- measuring


def test_every_shift_is_found_in_every_clip(network: SyncNetwork) -> None:
    found = {late: offset.measure([clip(100 + i, late) for i in range(4)], network) for late in range(-MOST, MOST + 1)}
    for late, (rows, short) in found.items():
        assert short == 0
        assert [(r.level, r.frames) for r in rows] == [(level, late) for level in ("source", "speaker", *["clip"] * 4)]
    sure = min(r.confidence for rows, _ in found.values() for r in rows)

    def unsure(one: Clip) -> float:
        return offset.measure([one], network)[0][0].confidence

    for i in range(4):
        one, other = clip(100 + i), clip(200 + i)
        assert unsure(Clip(**{**vars(one), "speech": np.zeros_like(one.speech)})) < 0.5 * sure
        assert unsure(Clip(**{**vars(one), "speech": other.speech})) < 0.75 * sure


def test_a_sync_network_of_another_size_sees_the_same_mouth(trained: str) -> None:
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
    shifted = offset.distances(network, clip(0, late=2, frames=30), 10)
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
    """Anna is 3 frames late, all but one clip of hers; Bob 2 early; one of Bob's clips is silent."""
    anna = [clip(i, 1 if i == 302 else 3) for i in range(300, 304)]
    bob = [clip(i, -2, speaker="bob") for i in range(400, 403)]
    bob[1] = Clip(**{**vars(bob[1]), "speech": np.zeros_like(bob[1].speech)})
    corpus = write_corpus(str(tmp_path / "corpus"), train=[*anna[:2], *bob[:2]], val=anna[2:3], test=[anna[3], bob[2]])
    out = str(tmp_path / "offsets")
    assert cli.main(["offsets", corpus, out, "--sync", trained, "--json", str(tmp_path / "out.json")]) == 0
    return out


def settings(level: str, offsets: str, sure: float = 0.2) -> IngestConfig:
    return load_recipe(
        "debug", [f"ingest.offset={level}", f"ingest.offsets={offsets}", f"ingest.offset_confidence={sure}"]
    ).ingest


FILES = [SourceClip("", f"anna/{i}.mp4", "anna") for i in range(300, 304)] + [
    SourceClip("", f"bob/{i}.mp4", "bob") for i in range(400, 403)
]
FILES += [SourceClip("", "bob/new.mp4", "bob"), SourceClip("", "carl/new.mp4", "carl")]


def test_the_command_measures_by_source_speaker_and_file(measured: str, tmp_path: Path) -> None:
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["artifacts"] == {"offsets": measured}
    result = report["result"]
    assert {name: o["frames"] for name, o in result["speakers"].items()} == {"anna": 3, "bob": -2}
    assert result["source"]["clips"] == 7 and result["short"] == 0
    assert result["clips"]["3"] == 3 and result["clips"]["1"] == 1 and sum(result["clips"].values()) == 7
    assert "anna                           +3" in offset.format_table(result)
    assert storage.read_manifest(measured, "offsets", offset.OFFSETS_SCHEMA)["parents"]["corpus"] == "d"


def test_the_finest_level_that_is_sure_decides(measured: str) -> None:
    assert offset.correct(FILES, IngestConfig()) == FILES
    everywhere = offset.read_offsets(measured)["source", ""].frames
    late = {level: [c.late for c in offset.correct(FILES, settings(level, measured))] for level in offset.LEVELS}
    assert late["speaker"][:8] == [3, 3, 3, 3, -2, -2, -2, -2]
    assert late["clip"][:8] == [
        3,
        3,
        1,
        3,
        -2,
        -2,
        -2,
        -2,
    ]  # the silent clip, and the one that was not measured, as Bob's others
    confidence = offset.read_offsets(measured)["source", ""].confidence
    source = settings("source", measured, sure=confidence)
    assert [c.late for c in offset.correct(FILES, source)] == [everywhere] * len(FILES)
    assert {c.late for c in offset.correct(FILES, settings("clip", measured, sure=1.9))} == {0}
    files = offset.describe(offset.correct(FILES, settings("clip", measured)), settings("clip", measured))["files"]
    assert files["3"] == 3 + (everywhere == 3) and sum(files.values()) == len(FILES)


def test_offsets_of_a_corrected_corpus_are_refused(measured: str, tmp_path: Path, trained: str) -> None:
    corpus, counts = (
        str(tmp_path / "corpus"),
        {split: {"shards": 1} for split in shards.SPLITS},
    )  # the corpus that was measured
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
        offset.correct(FILES, settings("source", str(tmp_path / "left")))


def test_what_cannot_be_used_is_told(
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


def test_ingest_takes_the_offsets_and_its_manifest_says_so(
    measured: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Enough(Exception):
        pass

    handed: list[SourceClip] = []

    def process(clips: list[SourceClip], *_: object) -> None:
        handed.extend(clips)
        raise Enough

    monkeypatch.setattr(pipeline, "list_clips", lambda uri, source: ("folder", FILES))
    monkeypatch.setattr(pipeline, "start_ray", lambda: None)
    monkeypatch.setattr(pipeline, "_process", process)
    plain = load_recipe("debug")
    corrected = plain.model_copy(update={"ingest": settings("speaker", measured)})
    with pytest.raises(Enough):
        pipeline.ingest(str(tmp_path), str(tmp_path / "new"), corrected, lambda line: None)
    assert [c.late for c in handed[:8]] == [3, 3, 3, 3, -2, -2, -2, -2]
    said = offset.describe(handed, corrected.ingest)
    digest = storage.read_manifest(measured, "offsets", offset.OFFSETS_SCHEMA)["digest"]
    assert said["level"] == "speaker" and said["offsets"] == digest and sum(said["files"].values()) == len(FILES)


@pytest.mark.parametrize("late", [-5, -2, 0, 1, 4])
def test_correction_restores_the_clip_in_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: int) -> None:
    """Two files of one take: in one, the sound's timestamps are off. Corrected, it gives the very frames and samples that the other gives."""
    points = face.TEMPLATE * 56 + [20, 4]

    class Finder:
        def detect(self, frame: np.ndarray) -> list[face.Detection]:
            return [face.Detection((20, 4, 76, 60), points, 1.0)]

    monkeypatch.setattr(stages, "_detector", lambda name: Finder())
    recipe = parse_recipe(
        {
            "media": {"size": 32, "smoothing": 0.0},
            "gan": {"generator": {"channels": [8, 8, 8, 8]}},
            "ingest": {"min_face": 16},
        }
    )
    rng = np.random.default_rng(0)
    times = 0.24 + np.arange(40) / 25
    pictures = [np.full((64, 96, 3), v, np.uint8) for v in rng.integers(30, 220, 40)]
    sound = rng.uniform(-0.5, 0.5, (1, 2 * SAMPLE_RATE))

    def ingested(name: str, moved: int, corrected: int) -> Clip:
        path = make_video(tmp_path / name, times, pictures, sound, SAMPLE_RATE, 0.2 + moved / 25)
        (made,) = Process(recipe).process(SourceClip(str(path), name, "anna", late=corrected))
        return made

    true, restored = ingested("true.mkv", 0, 0), ingested("late.mkv", late, late)
    assert (
        np.array_equal(restored.frames, true.frames)
        and np.array_equal(restored.speech, true.speech)
        and restored.id == true.id
    )
    uncorrected = ingested("again.mkv", late, 0)
    assert (uncorrected.id == true.id) == (late == 0)


def test_frames_that_lose_their_partner_are_dropped(tmp_path: Path) -> None:
    """Picture and sound begin and end together: what has no partner any more, once the sound is moved, goes."""
    from s2v_ray.ingest.scan import Place, Take
    from s2v_ray.media.audio import AudioTrack

    samples = np.arange(frames_to_samples(50), dtype=np.float32) / 1e5
    for late in (-3, 0, 4):
        source = SourceClip("", "a.mp4", "anna", late=late)
        take = Take(
            source, "", AudioTrack(samples, 0.0, 1.0, True), np.arange(50) / 25, np.zeros(1), np.zeros((1, 5, 2)), None
        )
        placed = Place(0.5, 0.0).process(take)
        assert placed.indices.tolist() == list(range(max(0, -late), min(50, 50 - late)))
        first = frames_to_samples(int(placed.indices[0]) + late)
        assert np.array_equal(placed.speech, samples[first : first + frames_to_samples(50 - abs(late))])
