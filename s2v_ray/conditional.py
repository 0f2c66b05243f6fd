"""Objects that are replaced only if they have not changed since they were read: compare-and-swap at any URI.

S3: a PUT with ``If-None-Match: *`` creates an object, one with ``If-Match`` and an ETag replaces it.

Local folders: ``flock`` on a file beside the object excludes other processes between comparison and replacement. The
kernel releases the lock when its process ends, and not while the process is stopped. A lock file that is created with
``O_EXCL`` would need an expiry instead, and a stopped holder could write after it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec

from s2v_ray import storage

LOCK = ".lock"
"""Suffix of the local file that is locked during a replacement."""
LOCK_SECONDS = 20.0
"""How long a replacement waits for the lock of another process."""
_FAILED = ("PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey")
"""Codes of S3 errors: another object is there, another request was concurrent, none is there."""
_memory_lock = threading.Lock()


class ConflictError(Exception):
    """The object is not the one that was read: another process wrote or removed it."""


def read(uri: str) -> tuple[bytes, str] | None:
    """Read an object and its ETag; None if there is none.

    Raises:
        StoreError: the object store refuses or does not respond.
    """
    fs, path = storage.filesystem(uri)
    try:
        if not _is_s3(fs):
            data = storage.read_bytes(uri)
            return data, _etag(data)
        with storage.translate_errors("read", uri):
            found: tuple[bytes, str] = fsspec.asyn.sync(fs.loop, _get, fs, path)
            return found
    except FileNotFoundError:
        return None


def write(uri: str, data: bytes, etag: str | None) -> str:
    """Write an object if its ETag is ``etag``, or, for None, if there is none; return the new ETag.

    ``data`` must be different in every call, because equal objects have equal ETags.

    Raises:
        ConflictError: another object is there, or none.
        StoreError: the object store refuses or does not respond.
        ArtifactError: this kind of storage has no conditional writes.
    """
    fs, path = storage.filesystem(uri)
    if _is_s3(fs):
        return _put(fs, path, uri, data, etag)
    with _locked(uri):
        found = read(uri)
        if (found and found[1]) != etag:
            raise ConflictError(uri)
        storage.write_bytes(uri, data)
    return _etag(data)


def _put(fs: Any, path: str, uri: str, data: bytes, etag: str | None) -> str:
    # Ceph's server (seen with 16.2) compares its ETag without quotes with the header as it was sent. One with quotes,
    # which is the standard, always fails there. A request with the other form is as safe as the first one.
    forms = [{"mode": "create"}] if etag is None else [{"IfMatch": form} for form in (etag, etag.strip('"'))]
    for condition in forms:
        try:
            return str(fs.pipe_file(path, data, **condition)["ETag"])
        except Exception as e:
            if _error_code(e) not in _FAILED:
                with storage.translate_errors("write", uri):
                    raise
        found = read(uri)
        if found is not None and found[0] == data:
            return found[1]  # a request whose response was lost was repeated, and failed because it had succeeded
        if etag is None or found is None or found[1] != etag:
            break
    raise ConflictError(uri)


async def _get(fs: Any, path: str) -> tuple[bytes, str]:
    bucket, key, _ = fs.split_path(path)
    response = await fs._call_s3("get_object", Bucket=bucket, Key=key)  # the public methods do not return the ETag
    async with response["Body"] as body:
        return await body.read(), response["ETag"]


def _error_code(error: BaseException) -> str:
    response = getattr(error.__cause__, "response", None)
    return str(response["Error"].get("Code", "")) if isinstance(response, dict) else ""


def _is_s3(fs: Any) -> bool:
    return "s3" in (fs.protocol if isinstance(fs.protocol, tuple) else (fs.protocol,))


def _etag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@contextlib.contextmanager
def _locked(uri: str) -> Iterator[None]:
    """Exclude other processes, and other threads of this one.

    Raises:
        ArtifactError: the filesystem has no locks, or another process holds the lock and does not respond.
    """
    local = storage.local_path(uri)
    if local is None:
        if not uri.startswith("memory://"):
            raise storage.ArtifactError(f"{uri}: conditional writes need a local path or s3://")
        with _memory_lock:
            yield
        return
    file = Path(local + LOCK)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as f:
        _flock(f.fileno(), file)
        yield


def _flock(descriptor: int, file: Path) -> None:
    end = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > end:
                raise storage.StoreError(
                    f"{file} is locked by another process that does not respond: end that process (`lsof {file}`)"
                ) from None
            time.sleep(0.01)
        except OSError as e:
            raise storage.ArtifactError(
                f"{file} cannot be locked ({os.strerror(e.errno or 0)}): use a filesystem with flock, or s3://"
            ) from e
