from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from s3fs import S3FileSystem

from s2v_ray import shards, storage
from s2v_ray.clip import Clip
from s2v_ray.config import IngestConfig
from tests.helpers.faulty_s3 import FaultyS3


def make_clip(seed: int, frames: int = 5, opening: bool = True) -> Clip:
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0, 200, 32).astype(np.uint8)
    pictures = np.stack([np.stack([np.tile(np.roll(ramp, t), (32, 1))] * 3, -1) for t in range(frames)])
    return Clip(
        id=f"clip{seed}",
        frames=pictures,
        speech=rng.uniform(-1, 1, frames * 640).astype(np.float32),
        speaker="anna",
        emotion="happy",
        sentence="good morning",
        source="a.mp4",
        landmarks=rng.uniform(0, 32, (frames, 5, 2)).astype(np.float32),
        mouth_opening=rng.uniform(0, 1, frames).astype(np.float32) if opening else None,
    )


@pytest.mark.parametrize("opening", [True, False])
def test_a_clip_is_read_back(tmp_path: Path, opening: bool) -> None:
    clip = make_clip(0, opening=opening)
    uri = str(tmp_path / "train/part-00000.parquet")
    shards.write_shard(uri, [shards.encode_clip(clip, 95)])
    storage.write_manifest(str(tmp_path), "corpus", shards.CORPUS_SCHEMA, splits={"train": {"shards": 1}})
    (back,) = shards.read_clips(str(tmp_path), "train")
    assert (back.id, back.speaker, back.emotion, back.sentence, back.source) == (
        "clip0",
        "anna",
        "happy",
        "good morning",
        "a.mp4",
    )
    assert np.abs(back.frames.astype(int) - clip.frames).mean() < 3  # JPEG
    assert np.abs(back.speech - clip.speech).max() <= 0.5 / 32767 + 1e-6
    assert np.array_equal(back.landmarks, clip.landmarks)
    assert (
        back.mouth_opening is None
        if clip.mouth_opening is None
        else np.array_equal(back.mouth_opening, clip.mouth_opening)
    )


def test_full_scale_speech_stays_in_range() -> None:
    clip = make_clip(0)
    row = shards.encode_clip(Clip(**{**vars(clip), "speech": np.sign(clip.speech)}))
    assert set(np.unique(shards.decode_speech(row["speech"]))) == {-1.0, 1.0}


def test_a_part_of_the_speech() -> None:
    row = shards.encode_clip(make_clip(0))
    whole = shards.decode_speech(row["speech"])
    assert np.array_equal(shards.decode_speech(row["speech"], 2, 2), whole[1280:2560])
    assert np.array_equal(shards.decode_speech(row["speech"], 4), whole[2560:])


def test_channels_keep_their_order() -> None:
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 250
    (back,) = shards.decode_frames([shards.encode_frame(red, 95)])
    assert back[..., 0].min() > 240 and back[..., 2].max() < 10


def test_full_chroma_keeps_the_colour_of_every_pixel() -> None:
    """Columns of alternating colours of equal luminance: 4:2:0 averages them, 4:4:4 does not."""
    columns = np.zeros((16, 16, 3), np.uint8)
    columns[:, ::2], columns[:, 1::2] = (200, 100, 100), (100, 151, 100)
    error = {}
    for chroma in ("full", "half"):
        (back,) = shards.decode_frames([shards.encode_frame(columns, 98, chroma)])
        error[chroma] = int(np.abs(back.astype(int) - columns).max())
    assert error["full"] <= 6 and error["half"] >= 40


def test_the_default_quality_is_that_of_the_recipe() -> None:
    frame = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    ingest = IngestConfig()
    assert shards.encode_frame(frame) == shards.encode_frame(frame, ingest.jpeg_quality, ingest.jpeg_chroma)
    assert len(shards.encode_frame(frame, 50)) < len(shards.encode_frame(frame))


def test_shards_are_listed_in_order_and_read_up_to_a_limit(tmp_path: Path) -> None:
    for i in (2, 1, 0):
        shards.write_shard(
            str(tmp_path / f"val/part-0000{i}.parquet"), [shards.encode_clip(make_clip(2 * i + j)) for j in range(2)]
        )
    splits = {"val": {"shards": 2}, "test": {"shards": 0}}  # readers ignore the third, which is not counted
    storage.write_manifest(str(tmp_path), "corpus", shards.CORPUS_SCHEMA, splits=splits)
    assert [u.rsplit("/", 1)[1] for u in shards.shard_uris(str(tmp_path), "val")] == [
        "part-00000.parquet",
        "part-00001.parquet",
    ]
    assert [c.id for c in shards.read_clips(str(tmp_path), "val", 3)] == ["clip0", "clip1", "clip2"]
    assert shards.read_clips(str(tmp_path), "test") == []


def test_damaged_shards_and_frames_are_errors(tmp_path: Path) -> None:
    uri = str(tmp_path / "part-00000.parquet")
    shards.write_shard(uri, [shards.encode_clip(make_clip(0))])
    storage.write_bytes(uri, storage.read_bytes(uri)[:-9])
    with pytest.raises(storage.ArtifactError, match="part-00000.parquet is damaged"):
        shards.read_shard(uri)
    with pytest.raises(ValueError, match="damaged"):
        shards.decode_frames([b"no jpeg"])


@pytest.mark.parametrize("remote", [False, True])
def test_a_flipped_byte_is_detected_or_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remote: bool
) -> None:
    """The footer and the header of a page have no checksum."""
    uri = f"memory://{tmp_path}/part-00000.parquet" if remote else str(tmp_path / "part-00000.parquet")
    monkeypatch.setattr(shards, "TAIL_BYTES", 2**12)  # smaller than the file, as it is in a real corpus
    shards.write_shard(uri, [shards.encode_clip(make_clip(i, frames=1)) for i in range(2)], group=1)
    assert [r["id"] for r in shards.read_rows(uri, 1)] == ["clip1"]
    whole = storage.read_bytes(uri)
    assert len(whole) > 2**12
    rows = shards.read_shard(uri)
    pages = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    detected = 0
    for at in [*range(0, pages, 61), *range(pages, len(whole), 11)]:
        storage.write_bytes(uri, whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :])
        try:
            assert (
                shards.read_shard(uri) == [row for group in range(2) for row in shards.read_rows(uri, group)] == rows
            ), at
        except storage.ArtifactError as e:
            assert "part-00000.parquet is damaged" in str(e)
            detected += 1
    assert detected > 200


@pytest.mark.slow
def test_a_row_group_from_s3_is_two_requests_and_a_small_file_one(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"{bucket}/shards/part-00000.parquet"
    shards.write_shard(uri, [shards.encode_clip(make_clip(i)) for i in range(2)], group=1)
    size = len(storage.read_bytes(uri))
    with FaultyS3(os.environ["AWS_ENDPOINT_URL"]) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        S3FileSystem.clear_instance_cache()
        for tail, requests in ((size // 2, 2), (size + 1, 1)):
            monkeypatch.setattr(shards, "TAIL_BYTES", tail)
            before = proxy.requests
            assert [r["id"] for r in shards.read_rows(uri, 1)] == ["clip1"]
            assert proxy.requests - before == requests


def test_a_missing_shard_is_an_error(tmp_path: Path) -> None:
    uri = str(tmp_path / "part-00000.parquet")
    for read in (shards.read_shard, lambda uri: shards.read_rows(uri, 0)):
        with pytest.raises(shards.MissingShardError, match=f"^shard {uri} is missing$"):
            read(uri)


def test_outputs_record_the_digest_of_their_network(tmp_path: Path) -> None:
    uri = str(tmp_path / "outputs.parquet")
    assert shards.made_by(uri) == ""
    shards.write_shard(uri, [shards.encode_output("x", np.ones(2))], shards.OUTPUT_SCHEMA, made_by="abc")
    assert shards.made_by(uri) == "abc" and shards.read_shard(uri)[0]["id"] == "x"


def test_outputs_of_teachers_are_stored_beside_their_shard(tmp_path: Path) -> None:
    shard = str(tmp_path / "train/part-00003.parquet")
    uri = shards.outputs_uri(str(tmp_path), "emotion", shard)
    assert uri == str(tmp_path / "teachers/emotion/train/part-00003.parquet")
    values = np.arange(12, dtype=np.float32).reshape(4, 3)
    shards.write_shard(uri, [shards.encode_output("x", values)], shards.OUTPUT_SCHEMA)
    (row,) = shards.read_shard(uri)
    assert row["id"] == "x" and np.array_equal(shards.decode_output(row), values)


def test_another_schema_version_is_refused(tmp_path: Path) -> None:
    storage.write_manifest(str(tmp_path), "corpus", shards.CORPUS_SCHEMA + 1)
    with pytest.raises(storage.ArtifactError, match="make it again with this version"):
        shards.read_corpus_manifest(str(tmp_path))
