"""Files at any URI, atomic writes, and manifests.

Only this module and ``conditional`` distinguish local paths from ``s3://``.

Endpoint, region and credentials of S3 are taken from the usual environment variables (``AWS_ENDPOINT_URL``,
``AWS_REGION``, ``AWS_ACCESS_KEY_ID``, ``AWS_PROFILE``, ...) or from the machine's role; s3fs reads all of them
except ``AWS_REGION``.

Failed requests to S3 are retried at two levels:

- botocore retries requests that failed before the response was complete: 500, 502, 503, 504, SlowDown and other
  throttling, refused and lost connections, timeouts. There are ``MAX_ATTEMPTS`` attempts, with random pauses from
  [0, 1], [0, 2], [0, 4], ... [0, 20] s. ``AWS_MAX_ATTEMPTS`` sets another number.
- s3fs reads a body again whose transfer was interrupted, in 5 attempts. ``max_concurrency`` below is set for this
  reason.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.metadata
import json
import os
import platform
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec

from s2v_ray.errors import ArtifactError as ArtifactError
from s2v_ray.errors import StoreError as StoreError
from s2v_ray.errors import bucket_of as bucket_of
from s2v_ray.errors import endpoint as endpoint
from s2v_ray.errors import explain_error as explain_error
from s2v_ray.errors import has_credentials
from s2v_ray.errors import scrub as scrub

MANIFEST = "manifest.json"
"""Name of the manifest in an artifact's folder."""
PART = ".part"
"""Suffix of a local file that is being written; it remains if the process is killed."""

MAX_ATTEMPTS = 8
"""Attempts of a request: they span half a minute of failures, and a wrong endpoint is reported within two minutes."""
CONNECT_SECONDS = 5.0
"""Timeout of a connection."""
READ_SECONDS = 60.0
"""Longest time without data from the server, before or within a response."""

_VERSIONED = (
    "s2v_ray",
    "torch",
    "ray",
    "deepspeed",
    "kornia",
    "torchaudio",
    "av",
    "opencv-python-headless",
    "onnxruntime",
    "espeakng-loader",
)


def filesystem(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Returns the filesystem of a URI, and the path in it. Listings are not cached, as other processes write as well.

    Raises:
        ArtifactError: an ``s3://`` URI contains credentials.
    """
    options: dict[str, Any] = {"use_listings_cache": False}
    if uri.startswith(("s3://", "s3a://")):
        if has_credentials(uri):
            raise ArtifactError(
                f"{uri} carries credentials: leave them out, "
                "and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
            )
        options |= _s3_options()
    fs, path = fsspec.core.url_to_fs(uri, **options)
    return fs, path


def _s3_options() -> dict[str, Any]:
    retries: dict[str, Any] = {"mode": "standard"}
    if not os.environ.get("AWS_MAX_ATTEMPTS"):
        retries["total_max_attempts"] = MAX_ATTEMPTS
    region = os.environ.get("AWS_REGION")  # botocore reads only AWS_DEFAULT_REGION
    return {
        "config_kwargs": {"retries": retries, "connect_timeout": CONNECT_SECONDS, "read_timeout": READ_SECONDS},
        "client_kwargs": {"region_name": region} if region else {},
        # s3fs reads objects of more than 50 MB in concurrent parts, and does not retry an interrupted part; it does
        # retry a single stream.
        "max_concurrency": 1,
    }


def local_path(uri: str) -> str | None:
    """Returns the path of a local file or folder; None if the URI is not local."""
    return fsspec.core.url_to_fs(uri)[1] if fsspec.utils.get_protocol(uri) in ("file", "local") else None


@contextmanager
def translate_errors(action: str, uri: str) -> Iterator[None]:
    """Turns errors of the object store into ``StoreError`` with an explanation.

    Local errors, and ``FileNotFoundError`` for a missing object, are not changed.

    Args:
        action: verb for the message, such as "read".
        uri: of the object.

    Raises:
        StoreError: no bucket, no access, missing or wrong credentials, no response, ...
    """
    try:
        yield
    except Exception as e:
        explanation = None if isinstance(e, ArtifactError) or local_path(uri) else explain_error(e, uri)
        if explanation is None:
            raise
        raise StoreError(f"cannot {action} {uri}: {explanation}") from e


def join(uri: str, *parts: str) -> str:
    """Appends ``parts`` to ``uri``."""
    return "/".join([uri.rstrip("/"), *(p.strip("/") for p in parts)])


def absolute(uri: str) -> str:
    """Makes a local path absolute, for workers with another working directory; returns other URIs unchanged."""
    if "://" in uri:
        return uri
    # pathlib does not normalise "..", and raises for an unknown user.
    return os.path.abspath(os.path.expanduser(uri))  # noqa: PTH100, PTH111  # see the comment above


def exists(uri: str) -> bool:
    """Returns whether a file, an object or a folder exists.

    Raises:
        StoreError: the object store refuses or does not respond.
    """
    fs, path = filesystem(uri)
    if local_path(uri):
        return bool(fs.exists(path))
    with translate_errors("look at", uri):
        try:
            fs.info(path)  # exists() of s3fs returns False for a bucket without access
        except FileNotFoundError:
            return False
    return True


def read_bytes(uri: str) -> bytes:
    """Reads an object.

    Raises:
        FileNotFoundError: it does not exist.
        StoreError: the object store refuses or does not respond.
    """
    fs, path = filesystem(uri)
    try:
        with translate_errors("read", uri):
            data: bytes = fs.cat_file(path)
            return data
    except FileNotFoundError as e:
        raise FileNotFoundError(errno.ENOENT, "no such file", uri) from e  # the message of S3 does not name the object


def read_tail(uri: str, size: int) -> bytes:
    """Reads the last ``size`` bytes of an object, or all if it is shorter, in one request. Raises as ``read_bytes``."""
    fs, path = filesystem(uri)
    with translate_errors("read", uri):
        try:
            data: bytes = fs.cat_file(path, start=-size)
            return data
        except OSError as e:
            if e.errno != errno.EINVAL:
                raise
            return b""  # S3 refuses ranges of an empty object


def open_ranges(uri: str) -> Any:
    """Opens a binary file of which each read is a request for that range; opening makes no request."""
    fs, path = filesystem(uri)
    return fsspec.spec.AbstractBufferedFile(fs, path, "rb", cache_type="none", size=2**62)


def write_bytes(uri: str, data: bytes) -> None:
    """Writes an object atomically: a reader gets the old bytes or the new ones, never a part.

    Raises:
        OSError: the local filesystem refuses.
        StoreError: the object store refuses or does not respond.
    """
    fs, path = filesystem(uri)
    if local_path(uri):
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = Path(f"{path}.{uuid.uuid4().hex[:8]}{PART}")
        try:
            with part.open("wb") as f:
                f.write(data)
                f.flush()
                os.fsync(f.fileno())
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    else:
        with translate_errors("write", uri):
            fs.pipe_file(path, data)  # an object store publishes only complete objects


def read_json(uri: str) -> Any:
    """Reads an object as JSON. Raises as ``read_bytes``."""
    return json.loads(read_bytes(uri))


def write_json(uri: str, value: Any) -> None:
    """Writes a value as JSON with sorted keys. Raises as ``write_bytes``."""
    write_bytes(uri, (json.dumps(value, indent=2, sort_keys=True) + "\n").encode())


def list_files(uri: str, suffix: str = "") -> list[str]:
    """Returns the URIs of all files under ``uri`` whose name ends with ``suffix``, sorted; [] if there are none.

    Raises:
        StoreError: the object store refuses or does not respond; there is no such bucket.
    """
    fs, path = filesystem(uri)
    with translate_errors("list", uri):
        # Web consoles create objects "folder/".
        found = sorted(p for p in fs.find(path) if p.endswith(suffix) and not p.endswith("/"))
    return found if local_path(uri) else [fs.unstrip_protocol(p) for p in found]


def list_names(uri: str) -> list[str]:
    """Returns the names of files and folders directly in ``uri``, sorted; [] if there are none.

    Raises:
        StoreError: the object store refuses or does not respond; there is no such bucket.
    """
    fs, path = filesystem(uri)
    with translate_errors("list", uri):
        fs.invalidate_cache()
        try:
            found = fs.ls(path, detail=False)
        except FileNotFoundError:
            return []
    names = (str(p).rstrip("/").rsplit("/", 1)[-1] for p in found if str(p).rstrip("/") != path.rstrip("/"))
    return sorted(names)


def fingerprint(uri: str) -> str:
    """Returns a digest that changes with what is stored under ``uri``.

    It is made from the artifact's manifest if there is one, and otherwise from name, size and time or ETag of each
    file.

    Raises:
        StoreError: the object store refuses or does not respond; there is no such bucket.
    """
    for manifest in (join(uri, MANIFEST), join(uri, "bundle", MANIFEST)):
        if exists(manifest):
            return sha256(read_bytes(manifest))
    fs, path = filesystem(uri)
    with translate_errors("list", uri):
        found = fs.find(path, detail=True)
    files = [[name, info["size"], str(info.get("ETag", info.get("mtime")))] for name, info in sorted(found.items())]
    return sha256(json.dumps(files).encode())


def remove(uri: str) -> None:
    """Removes a file or a folder if it exists.

    Raises:
        StoreError: the object store refuses or does not respond.
    """
    fs, path = filesystem(uri)
    if local_path(uri):
        if fs.exists(path):
            fs.rm(path, recursive=True)
        return
    # S3 deletes many objects per request, responds with 200, and lists objects that it did not delete in the body,
    # which s3fs ignores. So the result is checked.
    for pause in (0, 1, 4):
        time.sleep(pause)
        if not exists(uri):
            return
        with translate_errors("remove", uri):
            fs.rm(path, recursive=True)
    if exists(uri):
        raise StoreError(f"cannot remove {uri}: the server leaves it there; ask for the right to delete")


def download(uri: str, folder: str) -> str:
    """Returns a local path with the content of an object: the file itself if it is local, else a copy in ``folder``.

    Raises:
        FileNotFoundError: it does not exist.
        StoreError: the object store refuses or does not respond.
    """
    fs, path = filesystem(uri)
    if local_path(uri):
        return path
    target = str(Path(folder) / Path(path).name)
    with translate_errors("read", uri):
        fs.get_file(path, target)
    return target


def signed_url(uri: str, seconds: int) -> str | None:
    """Returns a URL that gives read access to an object of S3 for ``seconds``; None if the URI is not of S3.

    Raises:
        StoreError: there are no credentials to sign with.
    """
    if not uri.startswith(("s3://", "s3a://")):
        return None
    fs, path = filesystem(uri)
    with translate_errors("sign", uri):
        return str(fs.sign(path, expiration=seconds))


def check_writable(uri: str) -> None:
    """Writes and removes an empty object, to detect missing rights before hours of work.

    Raises:
        ArtifactError: it cannot be written or removed.
    """
    probe = join(uri, f".write-test-{uuid.uuid4().hex[:8]}")
    try:
        write_bytes(probe, b"")
        remove(probe)
    except Exception as e:  # filesystems raise many types, and all of them have the same meaning here
        raise ArtifactError(f"cannot write to {uri}: {explain_error(e, uri) or f'{type(e).__name__}: {e}'}") from e


def sha256(data: bytes) -> str:
    """Returns the SHA-256 of ``data`` in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def write_manifest(uri: str, kind: str, schema: int, **fields: Any) -> dict[str, Any]:
    """Writes ``uri/manifest.json`` and returns its content.

    Args:
        uri: folder of the artifact.
        kind: of the artifact.
        schema: version of the artifact's format.
        fields: further entries; at least ``config_digest`` and ``parents`` (role -> digest of a parent artifact).
    """
    manifest = {"kind": kind, "schema": schema, "versions": versions(), **fields}
    write_json(join(uri, MANIFEST), manifest)
    return manifest


def read_manifest(uri: str, kind: str, schema: int) -> dict[str, Any]:
    """Reads and checks ``uri/manifest.json``.

    Raises:
        ArtifactError: there is none, it is damaged, or it is of another kind or schema version.
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
        found = f"a {manifest['kind']}" if "kind" in manifest else "an artifact without a kind"
        raise ArtifactError(f"{uri} is {found}, not a {kind}")
    if manifest.get("schema") != schema:
        raise ArtifactError(
            f"{uri} was made by schema {manifest.get('schema')} of {kind}, this version reads {schema}: "
            "make it again with this version"
        )
    return manifest


def versions() -> dict[str, str]:
    """Returns the versions of the libraries that results depend on, for manifests."""
    found = {"python": platform.python_version()}
    for name in _VERSIONED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found
