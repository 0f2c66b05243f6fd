"""The schema of a corpus: clips <-> Parquet rows. Nothing else knows it.

    CORPUS/manifest.json                       kind "corpus": size, splits, counts, speakers, emotions, rejects by reason
    CORPUS/rejects.parquet                     source, reason, detail
    CORPUS/{train,val,test}/part-00000.parquet
    CORPUS/teachers/{identity,emotion}/        a teacher's card and weights (``models.teachers``), and its outputs:
    CORPUS/teachers/ROLE/{split}/part-00000.parquet   clip by clip, in the shard's order
    CORPUS/judges/{identity,emotion,mouth,sync}/      networks for evaluation only; no outputs are stored

A teacher's outputs lie beside the shards, not in them, so that another teacher is added without decoding video again.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import simplejpeg

from s2v_ray import storage
from s2v_ray.clip import Clip
from s2v_ray.media.timing import frames_to_samples

CORPUS_SCHEMA = 1
SPLITS = ("train", "val", "test")
MADE_BY = b"made_by"
TAIL = 2**16
"""Bytes at the end of a remote file that are read first. They hold the footer, and most files of teachers' outputs."""

CLIP_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("speaker", pa.string(), nullable=False),
        pa.field("emotion", pa.string(), nullable=False),
        pa.field("sentence", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("num_frames", pa.int32(), nullable=False),
        pa.field("size", pa.int32(), nullable=False),
        pa.field("frames", pa.list_(pa.binary()), nullable=False),  # JPEG, one a frame
        pa.field("speech", pa.binary(), nullable=False),  # little-endian int16 PCM
        pa.field("landmarks", pa.list_(pa.float32()), nullable=False),  # T * 5 * 2
        pa.field("mouth_opening", pa.list_(pa.float32())),  # T, or null
    ]
)

OUTPUT_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("values", pa.list_(pa.float32()), nullable=False),  # flattened
        pa.field("shape", pa.list_(pa.int32()), nullable=False),  # identity [D]; emotion [T, K]
    ]
)

REJECT_SCHEMA = pa.schema([("source", pa.string()), ("reason", pa.string()), ("detail", pa.string())])


class MissingShard(storage.ArtifactError, FileNotFoundError):
    """A Parquet file of a corpus that is not there."""


def encode_clip(clip: Clip, jpeg_quality: int = 92) -> dict[str, Any]:
    """One clip as a row of ``CLIP_SCHEMA``."""
    return {
        "id": clip.id,
        "speaker": clip.speaker,
        "emotion": clip.emotion,
        "sentence": clip.sentence,
        "source": clip.source,
        "num_frames": len(clip.frames),
        "size": clip.frames.shape[1],
        "frames": [encode_frame(f, jpeg_quality) for f in clip.frames],
        "speech": (clip.speech * 32767.0).round().astype("<i2").tobytes(),
        "landmarks": clip.landmarks.astype(np.float32).ravel(),
        "mouth_opening": None if clip.mouth_opening is None else clip.mouth_opening.astype(np.float32),
    }


def decode_clip(row: dict[str, Any]) -> Clip:
    """A row of ``CLIP_SCHEMA`` as a clip.

    Raises:
        ValueError: the row is damaged.
    """
    t = int(row["num_frames"])
    opening = row["mouth_opening"]
    return Clip(
        id=row["id"],
        frames=decode_frames(row["frames"]),
        speech=decode_speech(row["speech"]),
        speaker=row["speaker"],
        emotion=row["emotion"],
        sentence=row["sentence"],
        source=row["source"],
        landmarks=np.asarray(row["landmarks"], np.float32).reshape(t, 5, 2),
        mouth_opening=None if opening is None else np.asarray(opening, np.float32),
    )


def encode_frame(frame: np.ndarray, quality: int) -> bytes:
    ok, data = cv2.imencode(".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not ok:
        raise ValueError("a frame could not be encoded")
    return data.tobytes()


def decode_frames(encoded: Sequence[bytes]) -> np.ndarray:
    """JPEG frames -> uint8 ``[T, H, W, 3]`` RGB.

    Raises:
        ValueError: a frame is damaged.
    """
    try:
        first = simplejpeg.decode_jpeg(encoded[0])  # the pixels of cv2.imdecode, in two thirds of its time
        frames = np.empty((len(encoded), *first.shape), np.uint8)
        frames[0] = first
        for frame, data in zip(frames[1:], encoded[1:], strict=True):
            if simplejpeg.decode_jpeg(data, buffer=frame).shape != first.shape:
                raise ValueError("it has another size than the first")
    except ValueError as e:
        raise ValueError(f"a frame of the shard is damaged: {e}") from e
    return frames


def decode_speech(data: bytes, start_frame: int = 0, frames: int | None = None) -> np.ndarray:
    """int16 PCM -> float32 in [-1, 1]; optionally only what is heard under some frames."""
    samples = np.frombuffer(data, "<i2")
    end = None if frames is None else frames_to_samples(start_frame + frames)
    return (samples[frames_to_samples(start_frame) : end] / 32767.0).astype(np.float32).clip(-1.0, 1.0)


def write_shard(
    uri: str, rows: Iterable[dict[str, Any]], schema: pa.Schema = CLIP_SCHEMA, *, group: int = 8, made_by: str = ""
) -> None:
    """Writes rows as one Parquet file, atomically. Small row groups, so that one clip can be read without its neighbours.

    Pages carry checksums: a flipped byte is told, not decoded. There are neither dictionaries nor statistics: no JPEG comes twice, and a
    footer that names the least and the greatest of them is large.

    Args:
        group: rows in a row group. made_by: digest of the network whose outputs these are.
    """
    buffer = io.BytesIO()
    table = pa.Table.from_pylist(list(rows), schema=schema.with_metadata({MADE_BY: made_by}) if made_by else schema)
    lean = {
        "use_dictionary": False,
        "write_statistics": False,
        "compression": "none" if schema is CLIP_SCHEMA else "zstd",
    }
    pq.write_table(table, buffer, row_group_size=group, write_page_checksum=True, **lean)
    storage.write_bytes(uri, buffer.getvalue())


def made_by(uri: str) -> str:
    """Digest of the network that made a file of outputs; "" where there is no such file."""
    try:
        with open_shard(uri) as f:
            return ((f.schema_arrow.metadata or {}).get(MADE_BY) or b"").decode()
    except (FileNotFoundError, storage.ArtifactError):
        return ""


@contextmanager
def open_shard(uri: str) -> Iterator[pq.ParquetFile]:
    """A shard of which only what is asked for is read: mapped where it is local, by ranges where it is remote.

    Pages have checksums, the footer has none: a flipped byte there can rename a column, which is told by comparing the schema.

    Raises:
        MissingShard: there is none.
        ArtifactError: the file is damaged, now or while it is read; StoreError: the object store refuses or does not answer.
    """
    with ExitStack() as stack:
        try:
            source, footer = storage.local_path(uri), None
            if source is None:
                stack.enter_context(storage.translate_errors("read", uri))
                source, footer = _by_ranges(uri)
            file = stack.enter_context(
                pq.ParquetFile(
                    source, metadata=footer, memory_map=True, pre_buffer=True, page_checksum_verification=True
                )
            )
            if file.schema_arrow.remove_metadata() not in (CLIP_SCHEMA, OUTPUT_SCHEMA, REJECT_SCHEMA):
                raise storage.ArtifactError(f"shard {uri} is damaged: its columns are not those of a shard")
            yield file
        except storage.ArtifactError:
            raise
        except FileNotFoundError as e:
            raise MissingShard(f"shard {uri} is missing") from e
        except (pa.ArrowException, ValueError, OSError) as e:
            raise storage.ArtifactError(f"shard {uri} is damaged: {e}") from e


def _by_ranges(uri: str) -> tuple[Any, pq.FileMetaData]:
    """What ``pq.ParquetFile`` takes, and the footer, for one request: the last ``TAIL`` bytes, which are a whole file where it is small.

    Of a larger one, each row group is one request more, since columns that lie side by side are read at once.
    """
    tail = storage.read_tail(uri, TAIL)
    length = 8 + int.from_bytes(tail[-8:-4], "little")  # the footer, its length, and Parquet's mark
    if length > len(tail) == TAIL:
        tail = storage.read_tail(uri, length)
    footer = pq.read_metadata(pa.BufferReader(tail[-length:]))
    return pa.BufferReader(tail) if len(tail) < TAIL else storage.open_ranges(uri), footer


def read_rows(uri: str, group: int) -> list[dict[str, Any]]:
    """The rows of one row group; only they are read. Raises ArtifactError as ``open_shard``."""
    with open_shard(uri) as f:
        rows: list[dict[str, Any]] = f.read_row_group(group).to_pylist()
        return rows


def read_shard(uri: str, columns: list[str] | None = None) -> list[dict[str, Any]]:
    """Rows of one Parquet file; only the columns named are read. Raises as ``open_shard``."""
    with open_shard(uri) as f:
        rows: list[dict[str, Any]] = f.read(columns, use_threads=False).to_pylist()
        return rows


def shard_name(split: str, number: int) -> str:
    """Where a shard lies within its corpus."""
    return f"{split}/part-{number:05d}.parquet"


def shard_uris(corpus: str, split: str) -> list[str]:
    """The shards of a split that the manifest counts, in order. One that is missing is thus noticed when it is read.

    Raises:
        ArtifactError: no corpus.
    """
    return [
        storage.join(corpus, shard_name(split, i))
        for i in range(read_corpus_manifest(corpus)["splits"][split]["shards"])
    ]


def outputs_uri(corpus: str, role: str, shard: str) -> str:
    """Where the outputs of the teacher ``role`` for one shard lie."""
    split, name = shard.rstrip("/").split("/")[-2:]
    return storage.join(corpus, "teachers", role, split, name)


def encode_output(clip_id: str, values: np.ndarray) -> dict[str, Any]:
    return {"id": clip_id, "values": values.astype(np.float32).ravel(), "shape": list(values.shape)}


def decode_output(row: dict[str, Any]) -> np.ndarray:
    return np.asarray(row["values"], np.float32).reshape(row["shape"])


def read_corpus_manifest(corpus: str) -> dict[str, Any]:
    """The checked manifest of a corpus.

    Raises:
        ArtifactError: there is none, or it was made by another schema version.
    """
    return storage.read_manifest(corpus, "corpus", CORPUS_SCHEMA)


def read_clips(corpus: str, split: str, limit: int | None = None) -> list[Clip]:
    """Clips of a split, decoded, in order. For evaluation and small corpora; training streams instead."""
    clips: list[Clip] = []
    for uri in shard_uris(corpus, split):
        for row in read_shard(uri):
            clips.append(decode_clip(row))
            if limit is not None and len(clips) >= limit:
                return clips
    return clips
