"""What is wrong with a place, local or ``s3://``, and with this machine, in plain words. Nothing it writes is left behind."""

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

MIN_DISK = 2 * 2**30
"""Bytes free below which no command gets far: a corpus, checkpoints and Ray's spilled objects go there."""
GOOD_DISK = 20 * 2**30
SKEW_WARN_SECONDS = 60.0
SKEW_FAIL_SECONDS = 900.0
"""S3 refuses a request that is signed more than 15 minutes off its own clock."""
PROBE = b"s2v doctor"


@dataclass(frozen=True)
class Check:
    """What was looked at, how it is, and one sentence that says so and what to do."""

    name: str
    status: Status
    sentence: str


def examine(uri: str) -> Iterator[Check]:
    """All checks, one by one as they are made. None of them raises for what is wrong with the place or the machine."""
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


# ---- a local place


def check_local(path: str) -> Iterator[Check]:
    """Whether a folder can be listed, read and written, or made where there is none."""
    folder = Path(path)
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        yield Check("place", "fail", f"{folder} is a file; name a folder")
        return
    yield Check(
        "place",
        "ok",
        f"{path} is there" if str(folder) == path else f"{path} is not there yet and will be made in {folder}",
    )
    if not os.access(folder, os.R_OK | os.X_OK):
        yield Check("read", "fail", f"{folder} may not be listed by this user: chmod or chown it")
        return
    probe = folder / _probe_name()
    try:
        probe.write_bytes(PROBE)
        same = probe.read_bytes() == PROBE
        other = f"{folder} gives back other bytes than were written: do not use it"
        yield (
            Check("write", "ok", "a file was written, read back and removed") if same else Check("write", "fail", other)
        )
    except OSError as e:
        yield Check(
            "write", "fail", f"cannot write to {folder}: {e.strerror}; chmod or chown it, or name another place"
        )
    finally:
        probe.unlink(missing_ok=True)
    yield check_disk("disk", str(folder))


def check_disk(name: str, folder: str) -> Check:
    free = shutil.disk_usage(folder).free
    said = f"{free / 2**30:.1f} GiB are free at {folder}"
    if free < MIN_DISK:
        return Check(
            name, "fail", f"{said}, too little for any work: free some, or set TMPDIR or the place to a larger disk"
        )
    return (
        Check(name, "warn", f"{said}: enough for the demo, little for real corpora")
        if free < GOOD_DISK
        else Check(name, "ok", said)
    )


# ---- S3


def check_s3(uri: str) -> Iterator[Check]:
    """Credentials, endpoint, clock, region, and the rights to list, delete, write and read, each with the request that needs it.

    The right to delete comes before the right to write: without it, nothing is written, since it could not be removed.
    """
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        storage.filesystem(uri)
        session = boto3.Session(region_name=os.environ.get("AWS_REGION"))
        found = session.get_credentials()
        patience = Config(connect_timeout=5, read_timeout=15, retries={"mode": "standard", "total_max_attempts": 3})
        client = session.client("s3", config=patience) if found else None
    except (BotoCoreError, ValueError) as e:
        yield Check("credentials", "fail", storage.scrub(storage.explain_error(e, uri) or str(e)))
        return
    if client is None or found is None:
        yield Check(
            "credentials",
            "fail",
            "there are none: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give this machine a role",
        )
        return
    yield Check("credentials", "ok", f"found ({found.method})")

    bucket = storage.bucket_of(uri)
    prefix = uri.partition("://")[2].partition("/")[2].strip("/")
    key = storage.join(prefix, _probe_name()).lstrip("/")

    def ask(operation: Callable[..., dict[str, Any]], **arguments: Any) -> tuple[dict[str, Any], str | None]:
        """The answer, and what is wrong with it, if anything."""
        try:
            return operation(Bucket=bucket, **arguments), None
        except (BotoCoreError, ClientError) as e:
            return getattr(e, "response", None) or {}, storage.scrub(storage.explain_error(e, uri) or str(e))

    listed, wrong = ask(client.list_objects_v2, Prefix=f"{prefix}/" if prefix else "", MaxKeys=1)
    headers = listed.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    if not listed:
        yield Check("endpoint", "fail", wrong or "")
        return
    yield Check("endpoint", "ok", storage.scrub(f"{client.meta.endpoint_url} answers"))
    yield check_clock(headers.get("date"), time.time())
    yield check_region(headers.get("x-amz-bucket-region"), client.meta.region_name)
    if wrong:
        yield Check("list", "fail", wrong)
        if _code(listed) != "AccessDenied":
            return  # the other requests would fail for the same reason
    else:
        yield Check("list", "ok", f"{uri} holds objects" if listed.get("KeyCount") else f"nothing lies at {uri} yet")

    _, wrong = ask(
        client.delete_object, Key=key
    )  # there is no such object yet, and S3 says so only to those who may delete it
    if wrong:
        yield Check("delete", "fail", wrong)
        yield Check(
            "write", "warn", "not tried, since what is written could not be removed: mend the right to delete first"
        )
        yield _check_read_only(ask, client, listed)
        return
    try:
        _, wrong = ask(client.put_object, Key=key, Body=PROBE)
        yield Check("write", "fail", wrong) if wrong else Check("write", "ok", "an object was written")
        if wrong:
            yield _check_read_only(ask, client, listed)
        else:
            got, wrong = ask(client.get_object, Key=key)
            yield Check("read", "fail", wrong) if wrong else _compare(got["Body"].read())
    finally:
        _, wrong = ask(client.delete_object, Key=key)
    yield (
        Check("delete", "fail", f"{key} could not be removed, remove it by hand: {wrong}")
        if wrong
        else Check("delete", "ok", "nothing is left behind")
    )


def check_clock(date: str | None, now: float) -> Check:
    """This machine's clock against the server's ``Date`` header."""
    if not date:
        return Check("clock", "warn", "the server does not tell its time")
    skew = now - parsedate_to_datetime(date).timestamp()
    said = f"this machine's clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the server's"
    if abs(skew) > SKEW_WARN_SECONDS:
        return Check(
            "clock",
            "fail" if abs(skew) > SKEW_FAIL_SECONDS else "warn",
            f"{said}: set it (NTP); S3 refuses above {SKEW_FAIL_SECONDS:.0f} s",
        )
    return Check("clock", "ok", "this machine's clock and the server's agree")


def check_region(bucket_region: str | None, region: str | None) -> Check:
    """The bucket's region, where the server names one, against ours."""
    if bucket_region and bucket_region != region:
        return Check(
            "region",
            "warn",
            f"the bucket is in {bucket_region}, requests go to {region}: set AWS_REGION={bucket_region}",
        )
    return Check(
        "region", "ok", f"requests go to {region or 'no region'}{'' if bucket_region else ', the server names none'}"
    )


def _check_read_only(
    ask: Callable[..., tuple[dict[str, Any], str | None]], client: Any, listed: dict[str, Any]
) -> Check:
    """The right to read, tried on the first byte of what lies there."""
    there = [o["Key"] for o in listed.get("Contents", []) if o["Size"]]
    if not there:
        return Check("read", "warn", "not tried, since there is nothing to read")
    _, wrong = ask(client.get_object, Key=there[0], Range="bytes=0-0")
    return Check("read", "fail", wrong) if wrong else Check("read", "ok", "an object was read")


def _compare(data: bytes) -> Check:
    if data != PROBE:
        return Check("read", "fail", "the server gave back other bytes than were written: do not use it")
    return Check("read", "ok", "it was read back")


def _code(answer: dict[str, Any]) -> str:
    return str(answer.get("Error", {}).get("Code", ""))


def _probe_name() -> str:
    return f".s2v-doctor-{uuid.uuid4().hex[:12]}"


# ---- this machine


def check_packages() -> Check:
    """The installed versions against the ranges that this package asks for."""
    from packaging.requirements import Requirement

    try:
        asked = [Requirement(line) for line in importlib.metadata.requires("s2v_ray") or []]
    except importlib.metadata.PackageNotFoundError:
        return Check(
            "packages",
            "warn",
            "s2v_ray is run from a folder, so its packages were not compared with its ranges: pip install -e .",
        )
    wrong, right = [], []
    for requirement in asked:
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
    """Whether ray, torch and CUDA can be used. Each in a process of its own: a driver that does not fit may take the process down."""
    said, wrong = _python("import ray; print(ray.__version__)")
    yield (
        Check("ray", "fail", f"cannot be imported: {wrong}")
        if wrong
        else Check("ray", "ok", f"ray {said} can be imported")
    )
    cuda_device = "torch.cuda.get_device_name() if torch.cuda.is_available() else ''"
    said, wrong = _python(
        f"import torch; print(torch.__version__, torch.version.cuda, torch.cuda.device_count(), {cuda_device})"
    )
    if wrong:
        yield Check("torch", "fail", f"cannot be imported: {wrong}")
        return
    version, cuda, count, name = [*said.split(maxsplit=3), ""][:4]
    yield Check("torch", "ok", f"torch {version} can be imported")
    if name:
        yield Check("cuda", "ok", f"{count} x {name}, CUDA {cuda}")
    elif shutil.which("nvidia-smi"):
        yield Check(
            "cuda",
            "fail",
            f"there is an NVIDIA driver, but torch (CUDA {cuda}) cannot use it: install the driver or the torch that fit one another",
        )
    else:
        yield Check("cuda", "warn", "no GPU: everything runs on the CPU, fit for small recipes only")


def _python(code: str, seconds: float = 120.0) -> tuple[str, str | None]:
    """The last line that ``code`` prints, and what is wrong, if anything."""
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return "", f"it takes more than {seconds:.0f} s"
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return "", lines[-1] if lines else f"the process ended with status {done.returncode}"
    return done.stdout.strip().splitlines()[-1], None
