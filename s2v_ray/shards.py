"""File format of a corpus: clips <-> Parquet rows.

    CORPUS/manifest.json                      kind "corpus": size, splits, counts, speakers, emotions, rejects by reason
    CORPUS/rejects.parquet                     source, reason, detail
    CORPUS/index/{train,val,test}.parquet      lengths of all clips (``split_index``)
    CORPUS/{train,val,test}/part-00000.parquet
    CORPUS/teachers/{identity,emotion}/        a teacher's card and weights (``models.teachers``), and its outputs:
    CORPUS/teachers/ROLE/{split}/part-00000.parquet   one row per clip, in the shard's order
    CORPUS/judges/{identity,emotion,mouth,sync}/      networks for evaluation only; no outputs are stored

A teacher's outputs are stored beside the shards, so that another teacher can be added without decoding video again.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import simplejpeg

from s2v_ray import storage
from s2v_ray.clip import Clip
from s2v_ray.media.timing import frames_to_samples

CORPUS_SCHEMA = 1
SPLITS = ("train", "val", "test")
Chroma = Literal["full", "half"]
"""Resolution of the colours of a JPEG frame: 4:4:4 or 4:2:0."""
JPEG_QUALITY = 98
ROW_GROUP = 8
"""Rows of a row group: what is read together."""
MADE_BY = b"made_by"
"""Key of a file's metadata for the digest of the network whose outputs it holds."""
TAIL_BYTES = 2**16
"""Bytes at the end of a remote file that are read first: they hold the footer, and most files of teachers' outputs."""

CLIP_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("speaker", pa.string(), nullable=False),
        pa.field("emotion", pa.string(), nullable=False),
        pa.field("sentence", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("num_frames", pa.int32(), nullable=False),
        pa.field("size", pa.int32(), nullable=False),
        pa.field("frames", pa.list_(pa.binary()), nullable=False),  # one JPEG per frame
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

INDEX_SCHEMA = pa.schema(
    [
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("row_group", pa.int32(), nullable=False),
        pa.field("num_frames", pa.list_(pa.int32()), nullable=False),  # of each clip
    ]
)

REJECT_SCHEMA = pa.schema([("source", pa.string()), ("reason", pa.string()), ("detail", pa.string())])

SCHEMAS = (CLIP_SCHEMA, OUTPUT_SCHEMA, INDEX_SCHEMA, REJECT_SCHEMA)


class MissingShardError(storage.ArtifactError, FileNotFoundError):
    """A Parquet file of a corpus does not exist."""


def encode_clip(clip: Clip, quality: int = JPEG_QUALITY, chroma: Chroma = "full") -> dict[str, Any]:
    """Encodes a clip as a row of ``CLIP_SCHEMA``; ``quality`` and ``chroma`` as for ``encode_frame``."""
    return {
        "id": clip.id,
        "speaker": clip.speaker,
        "emotion": clip.emotion,
        "sentence": clip.sentence,
        "source": clip.source,
        "num_frames": len(clip.frames),
        "size": clip.frames.shape[1],
        "frames": [encode_frame(f, quality, chroma) for f in clip.frames],
        "speech": (clip.speech * 32767.0).round().astype("<i2").tobytes(),
        "landmarks": clip.landmarks.astype(np.float32).ravel(),
        "mouth_opening": None if clip.mouth_opening is None else clip.mouth_opening.astype(np.float32),
    }


def decode_clip(row: dict[str, Any]) -> Clip:
    """Decodes a row of ``CLIP_SCHEMA``.

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


def encode_frame(frame: np.ndarray, quality: int = JPEG_QUALITY, chroma: Chroma = "full") -> bytes:
    """Encodes a uint8 ``[H, W, 3]`` RGB frame as JPEG.

    Args:
        frame: the frame.
        quality: of JPEG, up to 100.
        chroma: "full" keeps the colours of every pixel (4:4:4); "half" averages them over 2 x 2 pixels (4:2:0).
    """
    sampling = "444" if chroma == "full" else "420"
    data: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(frame), quality, colorsubsampling=sampling)
    return data


def decode_frames(encoded: Sequence[bytes]) -> np.ndarray:
    """Decodes JPEG frames to uint8 ``[T, H, W, 3]`` RGB.

    Raises:
        ValueError: a frame is damaged.
    """
    try:
        first = simplejpeg.decode_jpeg(encoded[0])  # the same pixels as cv2.imdecode, in two thirds of the time
        frames = np.empty((len(encoded), *first.shape), np.uint8)
        frames[0] = first
        for frame, data in zip(frames[1:], encoded[1:], strict=True):
            if simplejpeg.decode_jpeg(data, buffer=frame).shape != first.shape:
                raise ValueError("it has another size than the first")
    except ValueError as e:
        raise ValueError(f"a frame of the shard is damaged: {e}") from e
    return frames


def decode_speech(data: bytes, start_frame: int = 0, frames: int | None = None) -> np.ndarray:
    """Decodes int16 PCM to float32 in [-1, 1].

    Args:
        data: the samples of a clip.
        start_frame: first frame whose samples are decoded.
        frames: number of frames; None: all that follow.
    """
    samples = np.frombuffer(data, "<i2")
    end = None if frames is None else frames_to_samples(start_frame + frames)
    return (samples[frames_to_samples(start_frame) : end] / 32767.0).astype(np.float32).clip(-1.0, 1.0)


def write_shard(
    uri: str,
    rows: Iterable[dict[str, Any]],
    schema: pa.Schema = CLIP_SCHEMA,
    *,
    group: int = ROW_GROUP,
    made_by: str = "",
) -> None:
    """Writes rows as one Parquet file, atomically, in small row groups, so that single clips can be read.

    Pages have checksums, so that a corrupt byte is detected. There are neither dictionaries nor statistics: JPEG
    frames do not repeat, and the statistics would put the smallest and the largest of them into the footer.

    Args:
        uri: of the file.
        rows: values by column.
        schema: of the rows.
        group: rows per row group.
        made_by: digest of the network whose outputs these are.
    """
    buffer = io.BytesIO()
    table = pa.Table.from_pylist(list(rows), schema=schema.with_metadata({MADE_BY: made_by}) if made_by else schema)
    pq.write_table(
        table,
        buffer,
        row_group_size=group,
        write_page_checksum=True,
        use_dictionary=False,
        write_statistics=False,
        compression="none" if schema is CLIP_SCHEMA else "zstd",
    )
    storage.write_bytes(uri, buffer.getvalue())


def made_by(uri: str) -> str:
    """Returns the digest of the network whose outputs a file holds; "" if the file does not exist or is damaged."""
    try:
        with open_shard(uri) as f:
            return ((f.schema_arrow.metadata or {}).get(MADE_BY) or b"").decode()
    except (FileNotFoundError, storage.ArtifactError):
        return ""


@contextmanager
def open_shard(uri: str) -> Iterator[pq.ParquetFile]:
    """Opens a shard; a local one is memory-mapped, of a remote one only the requested ranges are read.

    Pages have checksums but the footer has none, and a corrupt byte there can rename a column. So the schema is
    compared.

    Raises:
        MissingShardError: the shard does not exist.
        ArtifactError: the file is damaged (also raised while it is read).
        StoreError: the object store refuses or does not respond.
    """
    with ExitStack() as stack:
        try:
            source, footer = storage.local_path(uri), None
            if source is None:
                stack.enter_context(storage.translate_errors("read", uri))
                source, footer = _open_remote(uri)
            file = stack.enter_context(
                pq.ParquetFile(
                    source, metadata=footer, memory_map=True, pre_buffer=True, page_checksum_verification=True
                )
            )
            if file.schema_arrow.remove_metadata() not in SCHEMAS:
                raise storage.ArtifactError(f"shard {uri} is damaged: its columns are not those of a shard")
            yield file
        except storage.ArtifactError:
            raise
        except FileNotFoundError as e:
            raise MissingShardError(f"shard {uri} is missing") from e
        except (pa.ArrowException, ValueError, OSError) as e:
            raise storage.ArtifactError(f"shard {uri} is damaged: {e}") from e


def _open_remote(uri: str) -> tuple[Any, pq.FileMetaData]:
    """Returns a source for ``pq.ParquetFile`` and the footer, in one request for the last ``TAIL_BYTES``.

    A small file is read completely by that request. Of a larger one, each row group takes another request, since
    adjacent columns are read together.
    """
    tail = storage.read_tail(uri, TAIL_BYTES)
    length = 8 + int.from_bytes(tail[-8:-4], "little")  # the footer, its length, and the magic number
    if length > len(tail) == TAIL_BYTES:
        tail = storage.read_tail(uri, length)
    footer = pq.read_metadata(pa.BufferReader(tail[-length:]))
    return pa.BufferReader(tail) if len(tail) < TAIL_BYTES else storage.open_ranges(uri), footer


def read_rows(uri: str, group: int) -> list[dict[str, Any]]:
    """Reads the rows of one row group. Raises as ``open_shard``."""
    with open_shard(uri) as f:
        rows: list[dict[str, Any]] = f.read_row_group(group).to_pylist()
        return rows


def read_shard(uri: str, columns: list[str] | None = None) -> list[dict[str, Any]]:
    """Reads the rows of a file, or some columns of them. Raises as ``open_shard``."""
    with open_shard(uri) as f:
        rows: list[dict[str, Any]] = f.read(columns, use_threads=False).to_pylist()
        return rows


def shard_name(split: str, number: int) -> str:
    """Returns the path of a shard in its corpus."""
    return f"{split}/part-{number:05d}.parquet"


def shard_uris(corpus: str, split: str) -> list[str]:
    """Returns the shards of a split that the manifest counts, in order. Reading a missing one is an error.

    Raises:
        ArtifactError: there is no corpus.
    """
    count = read_corpus_manifest(corpus)["splits"][split]["shards"]
    return [storage.join(corpus, shard_name(split, i)) for i in range(count)]


def outputs_uri(corpus: str, role: str, shard: str) -> str:
    """Returns the URI of the outputs of the teacher ``role`` for a shard."""
    split, name = shard.rstrip("/").split("/")[-2:]
    return storage.join(corpus, "teachers", role, split, name)


def encode_output(clip_id: str, values: np.ndarray) -> dict[str, Any]:
    """Encodes a teacher's output for a clip as a row of ``OUTPUT_SCHEMA``."""
    return {"id": clip_id, "values": values.astype(np.float32).ravel(), "shape": list(values.shape)}


def decode_output(row: dict[str, Any]) -> np.ndarray:
    """Decodes a row of ``OUTPUT_SCHEMA`` to float32 of its shape."""
    return np.asarray(row["values"], np.float32).reshape(row["shape"])


def read_corpus_manifest(corpus: str) -> dict[str, Any]:
    """Reads and checks the manifest of a corpus.

    Raises:
        ArtifactError: there is none, or it has another schema version.
    """
    return storage.read_manifest(corpus, "corpus", CORPUS_SCHEMA)


def read_clips(corpus: str, split: str, limit: int | None = None) -> list[Clip]:
    """Reads and decodes the first ``limit`` clips of a split. For evaluation and small corpora; training streams."""
    clips: list[Clip] = []
    for uri in shard_uris(corpus, split):
        for row in read_shard(uri):
            clips.append(decode_clip(row))
            if limit is not None and len(clips) >= limit:
                return clips
    return clips
