"""Any URI -> filesystem; atomic writes; manifests. The one place that knows local from ``s3://``.

Credentials, endpoint and region come from the usual environment (``AWS_ENDPOINT_URL``, ``AWS_ACCESS_KEY_ID``, ...),
which s3fs reads by itself.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import uuid
from pathlib import Path
from typing import Any

import fsspec

MANIFEST = "manifest.json"
PART = ".part"
"""Ending of a local file that is being written; a kill can leave one."""


class ArtifactError(ValueError):
    """An artifact that is missing, torn, of another kind or of another schema; the message says what to do."""


def filesystem(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The filesystem of a URI, and the path within it. Listings are not cached: other processes write here too."""
    fs, path = fsspec.core.url_to_fs(uri, use_listings_cache=False)
    return fs, path


def join(uri: str, *parts: str) -> str:
    """``uri`` with ``parts`` appended."""
    return "/".join([uri.rstrip("/"), *(p.strip("/") for p in parts)])


def absolute(uri: str) -> str:
    """A local path made absolute, so that workers with another working directory find it; other URIs unchanged."""
    return uri if "://" in uri else os.path.abspath(os.path.expanduser(uri))


def exists(uri: str) -> bool:
    fs, path = filesystem(uri)
    return bool(fs.exists(path))


def read_bytes(uri: str) -> bytes:
    """The whole of one object.

    Raises:
        FileNotFoundError: nothing is there.
    """
    fs, path = filesystem(uri)
    return fs.cat_file(path)


def write_bytes(uri: str, data: bytes) -> None:
    """Writes one object whole or not at all: a reader sees the old bytes or the new ones, never a part."""
    fs, path = filesystem(uri)
    if _is_local(fs):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        part = f"{path}.{uuid.uuid4().hex[:8]}{PART}"
        try:
            with open(part, "wb") as f:
                f.write(data)
                f.flush()
                os.fsync(f.fileno())
            os.replace(part, path)
        finally:
            Path(part).unlink(missing_ok=True)
    else:
        fs.pipe_file(path, data)  # object stores publish an object only when it is complete


def read_json(uri: str) -> Any:
    return json.loads(read_bytes(uri))


def write_json(uri: str, value: Any) -> None:
    write_bytes(uri, (json.dumps(value, indent=2, sort_keys=True) + "\n").encode())


def list_files(uri: str, suffix: str = "") -> list[str]:
    """URIs of all files under ``uri``, sorted; [] where nothing is there."""
    fs, path = filesystem(uri)
    if not fs.exists(path):
        return []
    found = sorted(p for p in fs.find(path) if p.endswith(suffix))
    return found if _is_local(fs) else [fs.unstrip_protocol(p) for p in found]


def remove(uri: str) -> None:
    """Removes a file or a folder; nothing happens where there is none."""
    fs, path = filesystem(uri)
    if fs.exists(path):
        fs.rm(path, recursive=True)


def download(uri: str, folder: str) -> str:
    """A local path with the content of one object: the file itself where it is local."""
    fs, path = filesystem(uri)
    if _is_local(fs):
        return path
    target = os.path.join(folder, os.path.basename(path))
    fs.get_file(path, target)
    return target


def check_writable(uri: str) -> None:
    """Finds out before hours of work whether the results can be written.

    Raises:
        ArtifactError: in plain words, why not.
    """
    probe = join(uri, f".write-test-{uuid.uuid4().hex[:8]}")
    try:
        write_bytes(probe, b"")
        remove(probe)
    except Exception as e:  # any failure of any filesystem means the same to the user
        raise ArtifactError(f"cannot write to {uri}: {type(e).__name__}: {e}") from e


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def write_manifest(uri: str, kind: str, schema: int, **fields: Any) -> dict[str, Any]:
    """Writes ``uri/manifest.json``: kind and schema of the artifact, versions, and whatever its maker knows of it.

    Makers pass at least ``config_digest`` and ``parents`` (a mapping of role to the parent artifact's digest).
    """
    manifest = {"kind": kind, "schema": schema, "versions": versions(), **fields}
    write_json(join(uri, MANIFEST), manifest)
    return manifest


def read_manifest(uri: str, kind: str, schema: int) -> dict[str, Any]:
    """Reads and checks ``uri/manifest.json``.

    Raises:
        ArtifactError: nothing there, another kind, or another schema version.
    """
    try:
        manifest = read_json(join(uri, MANIFEST))
    except (FileNotFoundError, NotADirectoryError):
        raise ArtifactError(f"there is no {kind} at {uri}: no {MANIFEST} is there") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as e:
        raise ArtifactError(f"{join(uri, MANIFEST)} is damaged: {e}") from e
    if not isinstance(manifest, dict):
        raise ArtifactError(f"{join(uri, MANIFEST)} is damaged: it is not a mapping")
    if manifest.get("kind") != kind:
        raise ArtifactError(f"{uri} is a {manifest.get('kind', 'thing of no kind')}, not a {kind}")
    if manifest.get("schema") != schema:
        raise ArtifactError(f"{uri} was made by schema {manifest.get('schema')} of {kind}, this version reads {schema}: make it again with this version")
    return manifest


def versions() -> dict[str, str]:
    """Versions of what shapes results, for manifests."""
    found = {"python": platform.python_version()}
    for name in ("s2v_ray", "torch", "ray", "deepspeed", "kornia", "torchaudio", "av", "opencv-python-headless", "onnxruntime", "espeakng-loader"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def _is_local(fs: fsspec.AbstractFileSystem) -> bool:
    return "file" in ((fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol)
