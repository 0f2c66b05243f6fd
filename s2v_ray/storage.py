"""Any URI -> filesystem; atomic writes; manifests. The one place that knows local from ``s3://``.

Endpoint, region and credentials come from the usual environment (``AWS_ENDPOINT_URL``, ``AWS_REGION``, ``AWS_ACCESS_KEY_ID``,
``AWS_PROFILE``, ...) or from the machine's role; s3fs finds them by itself, all but ``AWS_REGION``.

Who repeats a failed request of S3, and how often:

- botocore repeats what failed before its answer was complete: 500, 502, 503, 504, SlowDown and other throttling, refused and cut connections,
  timeouts. ``ATTEMPTS`` in all, after pauses drawn from [0, 1], [0, 2], [0, 4], ... [0, 20] s. ``AWS_MAX_ATTEMPTS`` sets another number.
- s3fs, around it, reads a body again that broke off in the middle: 5 attempts. Hence ``max_concurrency`` below.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec

MANIFEST = "manifest.json"
PART = ".part"
"""Ending of a local file that is being written; a kill can leave one."""


ATTEMPTS = 8
"""Attempts of one request: enough to outlast half a minute of trouble, and few enough that a wrong endpoint is named within two."""
CONNECT_SECONDS = 5.0
READ_SECONDS = 60.0
"""Longest silence of a server in the middle of an answer, or before it."""


class ArtifactError(ValueError):
    """An artifact or a place that is missing, torn, barred, of another kind or of another schema; the message says what to do.

    The message never carries credentials: it is scrubbed here, once, whoever raises it.
    """

    def __init__(self, message: str) -> None:
        super().__init__(scrub(message))


class StoreError(ArtifactError, OSError):
    """An object store that refused or did not answer. It tells nothing of the artifact, which may be there and sound."""


_USER_INFO = re.compile(r"(?<=://)(?!arn:)(?:[^\s/@]+|[^\s/@:]*:[^\s@]*)@")  # a secret key may itself hold slashes
_SIGNED = re.compile(
    r"\b(signature|credential|security-token|awsaccesskeyid|aws_secret_access_key|aws_session_token|sig)=[^&\s,;'\"]+",
    re.IGNORECASE,
)


def scrub(text: str) -> str:
    """``text`` without credentials: user-info of URIs, signatures of signed ones, and the secrets of the environment."""
    text = _SIGNED.sub(r"\1=***", _USER_INFO.sub("***@", text))
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        secret = os.environ.get(name, "")
        if len(secret) >= 8:  # a test server's short one is an ordinary word
            text = text.replace(secret, "***")
    return text


def filesystem(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The filesystem of a URI, and the path within it. Listings are not cached: other processes write here too.

    Raises:
        ArtifactError: an ``s3://`` URI that carries credentials.
    """
    options: dict[str, Any] = {"use_listings_cache": False}
    if uri.startswith(("s3://", "s3a://")):
        if _USER_INFO.search(uri):
            raise ArtifactError(
                f"{uri} carries credentials: leave them out, and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
            )
        options |= _s3_options()
    fs, path = fsspec.core.url_to_fs(uri, **options)
    return fs, path


def _s3_options() -> dict[str, Any]:
    retries = (
        {"mode": "standard"}
        if os.environ.get("AWS_MAX_ATTEMPTS")
        else {"mode": "standard", "total_max_attempts": ATTEMPTS}
    )
    region = os.environ.get("AWS_REGION")  # other kits' name for AWS_DEFAULT_REGION; botocore does not read it
    return {
        "config_kwargs": {"retries": retries, "connect_timeout": CONNECT_SECONDS, "read_timeout": READ_SECONDS},
        "client_kwargs": {"region_name": region} if region else {},
        # s3fs fetches an object of more than 50 MB in concurrent parts, and does not read a part again that broke off. One stream it does.
        "max_concurrency": 1,
    }


def local_path(uri: str) -> str | None:
    """The path of a local file or folder; None where the URI is not local."""
    return fsspec.core.url_to_fs(uri)[1] if fsspec.utils.get_protocol(uri) in ("file", "local") else None


@contextmanager
def in_plain_words(doing: str, uri: str) -> Iterator[None]:
    """What an object store refuses leaves this as one sentence. Local errors, and ``FileNotFoundError`` for a missing object, pass as they are.

    Raises:
        StoreError: no bucket, no right, no credentials or wrong ones, no answer, ...
    """
    try:
        yield
    except Exception as e:
        meaning = None if isinstance(e, ArtifactError) or local_path(uri) else explain(e, uri)
        if meaning is None:
            raise
        raise StoreError(f"cannot {doing} {uri}: {meaning}") from e


_DENIED = "access is denied: ask for the rights to list, read, write and delete there (a missing object, too, is answered so where listing is not allowed)"
_SESSION = "the session token has expired or is not valid: renew it, or unset AWS_SESSION_TOKEN"
_REGION = "the bucket {bucket} is in another region: set AWS_REGION to it"
_BUSY = "{endpoint} is overloaded or broken, and stayed so through all attempts: try again later"
_NO_CREDENTIALS = "no usable credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
_NO_ANSWER = "{endpoint} does not answer: check AWS_ENDPOINT_URL, and whether this machine reaches it"
_BROKE_OFF = (
    "the connection to {endpoint} broke off or fell silent in all attempts: check the network, or try again later"
)

# Codes of S3 (a HEAD request's error is its status alone) and exceptions of botocore, aiohttp and fsspec, by name: none of them is imported for this.
_MEANINGS = {
    "NoSuchBucket": "there is no bucket {bucket} at {endpoint}: create it, or correct the URI or AWS_ENDPOINT_URL",
    "InvalidBucketName": "{bucket} cannot be a bucket's name",
    "ParamValidationError": "{bucket} cannot be a bucket's name",
    "InvalidAccessKeyId": "{endpoint} does not know the access key: check AWS_ACCESS_KEY_ID (or the profile), and AWS_ENDPOINT_URL",
    "SignatureDoesNotMatch": "the secret key does not belong to the access key: check AWS_SECRET_ACCESS_KEY (or the profile)",
    "RequestTimeTooSkewed": "this machine's clock is wrong by more than S3 allows: set it (NTP)",
    **dict.fromkeys(("AccessDenied", "AllAccessDisabled", "403"), _DENIED),
    **dict.fromkeys(("ExpiredToken", "InvalidToken", "TokenRefreshRequired"), _SESSION),
    **dict.fromkeys(
        ("PermanentRedirect", "301", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"), _REGION
    ),
    **dict.fromkeys(("SlowDown", "ServiceUnavailable", "InternalError", "500", "502", "503", "504"), _BUSY),
    **dict.fromkeys(
        (
            "NoCredentialsError",
            "PartialCredentialsError",
            "CredentialRetrievalError",
            "TokenRetrievalError",
            "SSOError",
        ),
        _NO_CREDENTIALS,
    ),
    "ProfileNotFound": "AWS_PROFILE names a profile that is not in the configuration of this machine",
    **dict.fromkeys(("EndpointConnectionError", "ConnectTimeoutError", "ProxyConnectionError", "SSLError"), _NO_ANSWER),
    **dict.fromkeys(("HTTPClientError", "ClientPayloadError", "FSTimeoutError"), _BROKE_OFF),
}


def explain(error: BaseException, uri: str) -> str | None:
    """What an object store's error means and what to do about it; None where it is another error, or says only that an object is missing."""
    cause: BaseException | None = error
    while cause is not None:  # s3fs raises Python's own errors, with botocore's behind them
        answer = getattr(cause, "response", None)
        refusal = answer.get("Error", {}) if isinstance(answer, dict) else {}
        for name in (refusal.get("Code"), *(c.__name__ for c in type(cause).__mro__)):
            if name in _MEANINGS:
                return _MEANINGS[name].format(bucket=bucket_of(uri), endpoint=endpoint())
        if refusal.get("Code") == "InvalidRange":
            return None  # the object is shorter than its reader thought
        if refusal and not isinstance(error, FileNotFoundError):
            return f"{endpoint()} refuses ({refusal.get('Code')}: {refusal.get('Message', 'no reason given')})"
        cause = cause.__cause__
    return None


def bucket_of(uri: str) -> str:
    """``s3://bucket/key`` -> ``bucket``."""
    return uri.partition("://")[2].partition("/")[0]


def endpoint() -> str:
    """Where S3 is sought, for messages."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "AWS"


def join(uri: str, *parts: str) -> str:
    """``uri`` with ``parts`` appended."""
    return "/".join([uri.rstrip("/"), *(p.strip("/") for p in parts)])


def absolute(uri: str) -> str:
    """A local path made absolute, so that workers with another working directory find it; other URIs unchanged."""
    return uri if "://" in uri else os.path.abspath(os.path.expanduser(uri))


def exists(uri: str) -> bool:
    """Whether a file, an object or a folder is there.

    Raises:
        StoreError: the object store does not say.
    """
    fs, path = filesystem(uri)
    if local_path(uri):
        return bool(fs.exists(path))
    with in_plain_words("look at", uri):
        try:
            fs.info(path)  # exists() of s3fs takes a bucket that it may not see for none
        except FileNotFoundError:
            return False
    return True


def read_bytes(uri: str) -> bytes:
    """The whole of one object.

    Raises:
        FileNotFoundError: nothing is there.
        StoreError: the object store refuses, or does not answer.
    """
    fs, path = filesystem(uri)
    try:
        with in_plain_words("read", uri):
            return fs.cat_file(path)
    except FileNotFoundError as e:
        raise FileNotFoundError(
            errno.ENOENT, "no such file", uri
        ) from e  # S3's own says only that "the specified key" does not exist


def read_tail(uri: str, size: int) -> bytes:
    """The last ``size`` bytes of one object, or all where it has no more: one request. Raises as ``read_bytes``."""
    fs, path = filesystem(uri)
    with in_plain_words("read", uri):
        try:
            return fs.cat_file(path, start=-size)
        except OSError as e:
            if e.errno != errno.EINVAL:
                raise
            return b""  # the object is empty: S3 has no range of it to give


def open_ranges(uri: str) -> Any:
    """A binary file of which each read is one request for that range; none is made to open it, and its size is not known."""
    fs, path = filesystem(uri)
    return fsspec.spec.AbstractBufferedFile(fs, path, "rb", cache_type="none", size=2**62)


def write_bytes(uri: str, data: bytes) -> None:
    """Writes one object whole or not at all: a reader sees the old bytes or the new ones, never a part.

    Raises:
        OSError: a local disk refuses.
        StoreError: the object store refuses, or does not answer.
    """
    fs, path = filesystem(uri)
    if local_path(uri):
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
        with in_plain_words("write", uri):
            fs.pipe_file(path, data)  # object stores publish an object only when it is complete


def read_json(uri: str) -> Any:
    return json.loads(read_bytes(uri))


def write_json(uri: str, value: Any) -> None:
    write_bytes(uri, (json.dumps(value, indent=2, sort_keys=True) + "\n").encode())


def list_files(uri: str, suffix: str = "") -> list[str]:
    """URIs of all files under ``uri``, sorted; [] where nothing is there.

    Raises:
        StoreError: the object store refuses, or does not answer; there is no such bucket.
    """
    fs, path = filesystem(uri)
    with in_plain_words("list", uri):
        found = sorted(
            p for p in fs.find(path) if p.endswith(suffix) and not p.endswith("/")
        )  # consoles make objects "folder/"
    return found if local_path(uri) else [fs.unstrip_protocol(p) for p in found]


def remove(uri: str) -> None:
    """Removes a file or a folder; nothing happens where there is none.

    Raises:
        StoreError: the object store refuses, or does not answer.
    """
    fs, path = filesystem(uri)
    if local_path(uri):
        if fs.exists(path):
            fs.rm(path, recursive=True)
        return
    # S3 deletes many objects in one request, answers 200 and lists in the body those it left; s3fs drops that list. So look again.
    for pause in (0, 1, 4):
        time.sleep(pause)
        if not exists(uri):
            return
        with in_plain_words("remove", uri):
            fs.rm(path, recursive=True)
    if exists(uri):
        raise StoreError(f"cannot remove {uri}: the server leaves it there; ask for the right to delete")


def download(uri: str, folder: str) -> str:
    """A local path with the content of one object: the file itself where it is local.

    Raises:
        FileNotFoundError: nothing is there.
        StoreError: the object store refuses, or does not answer.
    """
    fs, path = filesystem(uri)
    if local_path(uri):
        return path
    target = os.path.join(folder, os.path.basename(path))
    with in_plain_words("read", uri):
        fs.get_file(path, target)
    return target


def signed_url(uri: str, seconds: int) -> str | None:
    """An address under which anybody can read one object of S3 for a while; None where the URI is not of S3.

    Raises:
        StoreError: there are no credentials to sign with.
    """
    if not uri.startswith(("s3://", "s3a://")):
        return None
    fs, path = filesystem(uri)
    with in_plain_words("sign", uri):
        return str(fs.sign(path, expiration=seconds))


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
        raise ArtifactError(f"cannot write to {uri}: {explain(e, uri) or f'{type(e).__name__}: {e}'}") from e


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
        raise ArtifactError(
            f"{uri} was made by schema {manifest.get('schema')} of {kind}, this version reads {schema}: make it again with this version"
        )
    return manifest


def versions() -> dict[str, str]:
    """Versions of what shapes results, for manifests."""
    found = {"python": platform.python_version()}
    for name in (
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
    ):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found
