"""Checks of a storage location, local or ``s3://``, and of this machine. They leave no file behind."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Literal

from s2v_ray import storage

Status = Literal["ok", "warn", "fail"]

GIB = 2**30
MIN_DISK = 2 * GIB
"""Free bytes below which the check of a disk fails: corpora, checkpoints and objects that Ray spills need them."""
RECOMMENDED_DISK = 20 * GIB
"""Free bytes below which it warns."""
SKEW_WARN_SECONDS = 60.0
"""Difference of the clocks above which the check of the clock warns."""
SKEW_FAIL_SECONDS = 900.0
"""Difference above which it fails: S3 refuses requests that are signed more than 15 minutes off its own clock."""
PROBE = b"s2v doctor"
"""Content of the files that are written and removed."""
IMPORT_SECONDS = 120.0
"""Longest time for importing a library."""


@dataclass(frozen=True)
class Check:
    """Result of one check.

    Attributes:
        name: what was checked.
        status: "ok", "warn" or "fail".
        message: one line; what was found and what to do.
    """

    name: str
    status: Status
    message: str

    def to_dict(self) -> dict[str, str]:
        """Returns the check for the JSON result of ``s2v doctor``."""
        return {"name": self.name, "status": self.status, "sentence": self.message}


def run_checks(uri: str) -> Iterator[Check]:
    """Runs all checks and yields each when it is done. Problems of the location or the machine raise no exception."""
    path = storage.local_path(uri)
    if path is not None:
        yield from check_local(path)
    elif uri.startswith(("s3://", "s3a://")):
        yield from check_s3(uri)
    else:
        yield Check("place", "fail", f"{storage.scrub(uri)} is neither a local path nor s3://bucket/key")
    yield check_disk("temporary disk", tempfile.gettempdir())
    yield check_packages()
    yield from check_libraries()


# ---- local folders


def check_local(path: str) -> Iterator[Check]:
    """Checks whether a folder can be listed, read and written, or created if it does not exist."""
    folder = Path(path)
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        yield Check("place", "fail", f"{folder} is a file; name a folder")
        return
    exists = str(folder) == path
    yield Check("place", "ok", f"{path} exists" if exists else f"{path} does not exist and will be created in {folder}")
    if not os.access(folder, os.R_OK | os.X_OK):
        yield Check("read", "fail", f"this user has no right to list {folder}: chmod or chown it")
        return
    yield _check_writing(folder)
    yield check_disk("disk", str(folder))


def _check_writing(folder: Path) -> Check:
    probe = folder / _probe_name()
    try:
        probe.write_bytes(PROBE)
        if probe.read_bytes() != PROBE:
            return Check("write", "fail", f"{folder} returns other bytes than were written: use another disk")
        return Check("write", "ok", "a file was written, read back and removed")
    except OSError as e:
        return Check("write", "fail", f"cannot write to {folder}: {e.strerror}; chmod or chown it, or use another one")
    finally:
        probe.unlink(missing_ok=True)


def check_disk(name: str, folder: str) -> Check:
    """Checks the free space of the disk that ``folder`` is on."""
    free = shutil.disk_usage(folder).free
    found = f"{free / GIB:.1f} GiB are free at {folder}"
    if free < MIN_DISK:
        return Check(
            name, "fail", f"{found}, which is too little: free some, or set TMPDIR or the location to a larger disk"
        )
    if free < RECOMMENDED_DISK:
        return Check(name, "warn", f"{found}: enough for the demo, too little for large corpora")
    return Check(name, "ok", found)


# ---- S3


def check_s3(uri: str) -> Iterator[Check]:
    """Checks credentials, endpoint, clock, region, and the rights to list, delete, write and read, each by a request.

    The right to delete is checked before the right to write: without it, nothing is written, as it could not be
    removed.
    """
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    try:
        storage.filesystem(uri)
        session = boto3.Session(region_name=os.environ.get("AWS_REGION"))
        credentials = session.get_credentials()
        config = Config(connect_timeout=5, read_timeout=15, retries={"mode": "standard", "total_max_attempts": 3})
        client = session.client("s3", config=config) if credentials else None
    except (BotoCoreError, ValueError) as e:
        yield Check("credentials", "fail", _explanation(e, uri))
        return
    if client is None:
        yield Check(
            "credentials",
            "fail",
            "there are none: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, "
            "or give this machine a role",
        )
        return
    yield Check("credentials", "ok", f"found ({credentials.method})")
    yield from _check_requests(S3Requests(client, uri))


@dataclass(frozen=True)
class S3Response:
    """Response to a request.

    Attributes:
        content: of the response; {} if the server did not respond.
        error: explanation if the request failed, else None.
    """

    content: dict[str, Any]
    error: str | None

    @property
    def code(self) -> str:
        """Code of the error, or ""."""
        return str(self.content.get("Error", {}).get("Code", ""))

    @property
    def headers(self) -> dict[str, str]:
        """HTTP headers in lower case."""
        headers: dict[str, str] = self.content.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        return headers


class S3Requests:
    """The requests of the checks.

    Args:
        client: of boto3.
        uri: the location that is checked.
    """

    def __init__(self, client: Any, uri: str) -> None:
        self.client, self.uri = client, uri
        self._bucket = storage.bucket_of(uri)
        self._prefix = uri.partition("://")[2].partition("/")[2].strip("/")
        self.key = storage.join(self._prefix, _probe_name()).lstrip("/")
        """Key of the object that is written and removed."""

    def list(self) -> S3Response:
        """Lists at most one object."""
        prefix = f"{self._prefix}/" if self._prefix else ""
        return self._request(self.client.list_objects_v2, Prefix=prefix, MaxKeys=1)

    def delete(self) -> S3Response:
        """Deletes the object; S3 answers with success if it does not exist."""
        return self._request(self.client.delete_object, Key=self.key)

    def put(self) -> S3Response:
        """Writes the object."""
        return self._request(self.client.put_object, Key=self.key, Body=PROBE)

    def get(self, key: str, **options: Any) -> S3Response:
        """Reads an object."""
        return self._request(self.client.get_object, Key=key, **options)

    def _request(self, operation: Callable[..., dict[str, Any]], **arguments: Any) -> S3Response:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return S3Response(operation(Bucket=self._bucket, **arguments), None)
        except (BotoCoreError, ClientError) as e:
            return S3Response(getattr(e, "response", None) or {}, _explanation(e, self.uri))


def _check_requests(requests: S3Requests) -> Iterator[Check]:
    listed = requests.list()
    if not listed.content:
        yield Check("endpoint", "fail", listed.error or "")
        return
    meta = requests.client.meta
    yield Check("endpoint", "ok", storage.scrub(f"{meta.endpoint_url} responds"))
    yield check_clock(listed.headers.get("date"), time.time())
    yield check_region(listed.headers.get("x-amz-bucket-region"), meta.region_name)
    if listed.error is None:
        found = f"{requests.uri} contains objects" if listed.content.get("KeyCount") else f"{requests.uri} is empty"
        yield Check("list", "ok", found)
    else:
        yield Check("list", "fail", listed.error)
        if listed.code != "AccessDenied":
            return  # the other requests would fail for the same reason
    deleted = requests.delete()
    if deleted.error is not None:
        yield Check("delete", "fail", deleted.error)
        yield Check("write", "warn", "not checked, as the object could not be removed: grant s3:DeleteObject first")
        yield _check_read_only(requests, listed)
    else:
        yield from _check_write_and_read(requests, listed)


def _check_write_and_read(requests: S3Requests, listed: S3Response) -> Iterator[Check]:
    try:
        written = requests.put()
        if written.error is not None:
            yield Check("write", "fail", written.error)
            yield _check_read_only(requests, listed)
        else:
            yield Check("write", "ok", "an object was written")
            yield _check_content(requests.get(requests.key))
    finally:
        deleted = requests.delete()
    if deleted.error is None:
        yield Check("delete", "ok", "the object was removed")
    else:
        message = f"{requests.key} could not be removed, remove it by hand: {deleted.error}"
        yield Check("delete", "fail", message)


def _check_content(response: S3Response) -> Check:
    if response.error is not None:
        return Check("read", "fail", response.error)
    if response.content["Body"].read() != PROBE:
        return Check("read", "fail", "the server returns other bytes than were written: use another one")
    return Check("read", "ok", "the object was read back")


def _check_read_only(requests: S3Requests, listed: S3Response) -> Check:
    """Checks the right to read with the first byte of an existing object."""
    keys = [o["Key"] for o in listed.content.get("Contents", []) if o["Size"]]
    if not keys:
        return Check("read", "warn", "not checked, as there is no object to read")
    response = requests.get(keys[0], Range="bytes=0-0")
    return (
        Check("read", "ok", "an object was read") if response.error is None else Check("read", "fail", response.error)
    )


def check_clock(date: str | None, now: float) -> Check:
    """Compares this machine's clock with the server's ``Date`` header."""
    if not date:
        return Check("clock", "warn", "the server does not send its time")
    skew = now - parsedate_to_datetime(date).timestamp()
    if abs(skew) <= SKEW_WARN_SECONDS:
        return Check("clock", "ok", "this machine's clock and the server's agree")
    found = f"this machine's clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the server's"
    status: Status = "fail" if abs(skew) > SKEW_FAIL_SECONDS else "warn"
    return Check("clock", status, f"{found}: set it (NTP); S3 refuses above {SKEW_FAIL_SECONDS:.0f} s")


def check_region(bucket_region: str | None, region: str | None) -> Check:
    """Compares the region of the bucket, if the server names it, with that of the requests."""
    if bucket_region and bucket_region != region:
        message = f"the bucket is in {bucket_region}, requests go to {region}: set AWS_REGION={bucket_region}"
        return Check("region", "warn", message)
    unnamed = "" if bucket_region else ", the server names none"
    return Check("region", "ok", f"requests go to {region or 'no region'}{unnamed}")


def _explanation(error: Exception, uri: str) -> str:
    return storage.scrub(storage.explain_error(error, uri) or str(error))


def _probe_name() -> str:
    return f".s2v-doctor-{uuid.uuid4().hex[:12]}"


# ---- this machine


def check_packages() -> Check:
    """Compares the installed versions with the ranges that this package requires."""
    from packaging.requirements import Requirement

    try:
        required = [Requirement(line) for line in importlib.metadata.requires("s2v_ray") or []]
    except importlib.metadata.PackageNotFoundError:
        return Check(
            "packages",
            "warn",
            "s2v_ray is not installed but run from a folder, so versions were not compared: pip install -e .",
        )
    wrong, right = [], []
    for requirement in required:
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            version = "absent"
        if version == "absent" or not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} is {version}, not {requirement.specifier or 'any'}")
        else:
            right.append(f"{requirement.name} {version}")
    if wrong:
        return Check("packages", "fail", f"{'; '.join(wrong)}: install again (make install)")
    shown = [r for r in right if re.match(r"(torch|ray|deepspeed|s3fs) ", r)]
    return Check("packages", "ok", f"{len(right)} packages are in their ranges ({', '.join(shown)})")


def check_libraries() -> Iterator[Check]:
    """Checks ray, torch and CUDA, each in its own process, because an incompatible driver can end the process."""
    ray = run_python("import ray; print(ray.__version__)")
    if ray.error is None:
        yield Check("ray", "ok", f"ray {ray.output} can be imported")
    else:
        yield Check("ray", "fail", f"cannot be imported: {ray.error}")
    device = "torch.cuda.get_device_name() if torch.cuda.is_available() else ''"
    torch = run_python(
        f"import torch; print(torch.__version__, torch.version.cuda, torch.cuda.device_count(), {device})"
    )
    if torch.error is not None:
        yield Check("torch", "fail", f"cannot be imported: {torch.error}")
        return
    version, cuda, count, name = [*torch.output.split(maxsplit=3), ""][:4]
    yield Check("torch", "ok", f"torch {version} can be imported")
    if name:
        yield Check("cuda", "ok", f"{count} x {name}, CUDA {cuda}")
    elif shutil.which("nvidia-smi"):
        yield Check(
            "cuda",
            "fail",
            f"there is an NVIDIA driver, but torch (CUDA {cuda}) cannot use it: "
            "install compatible versions of the driver and of torch",
        )
    else:
        yield Check("cuda", "warn", "no GPU: everything runs on the CPU, which is sufficient for small recipes only")


@dataclass(frozen=True)
class PythonResult:
    """Result of a short program.

    Attributes:
        output: last line of its standard output.
        error: why it failed, else None.
    """

    output: str
    error: str | None


def run_python(code: str, seconds: float = IMPORT_SECONDS) -> PythonResult:
    """Runs ``code`` in a process of its own."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        return PythonResult("", f"it takes more than {seconds:.0f} s")
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return PythonResult("", lines[-1] if lines else f"the process ended with status {done.returncode}")
    return PythonResult(done.stdout.strip().splitlines()[-1], None)
