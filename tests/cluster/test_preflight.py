"""The checks of `s2v doctor` on locations and machines with one problem each: that problem is found, and no other."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from types import SimpleNamespace

import pytest

from s2v_ray import cli, storage
from s2v_ray.cluster import preflight
from s2v_ray.cluster.preflight import Check, PythonResult
from tests.helpers.faulty_s3 import FaultyS3, Refusal

GIB = 2**30


def by_name(checks: list[Check]) -> dict[str, Check]:
    for check in checks:
        assert check.message and "\n" not in check.message
    return {c.name: c for c in checks}


def statuses(checks: list[Check]) -> dict[str, str]:
    return {name: c.status for name, c in by_name(checks).items()}


# ---- local places


def test_a_usable_folder(tmp_path: Path) -> None:
    found = statuses(list(preflight.check_local(str(tmp_path))))
    assert (found["place"], found["write"]) == ("ok", "ok")
    assert not list(tmp_path.iterdir())


def test_a_missing_folder_is_not_created(tmp_path: Path) -> None:
    place = by_name(list(preflight.check_local(str(tmp_path / "a" / "b"))))["place"]
    assert place.status == "ok" and place.message.endswith(f"will be created in {tmp_path}")
    assert not list(tmp_path.iterdir())


def test_a_file_is_not_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert [c.status for c in preflight.check_local(str(tmp_path / "file" / "run"))] == ["fail"]


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path, data: bytes) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "write_bytes", refused)  # permissions do not apply to root, who may run the tests
    write = by_name(list(preflight.check_local(str(tmp_path))))["write"]
    assert write.status == "fail" and "Permission denied" in write.message


@pytest.mark.parametrize(("free", "status"), [(GIB, "fail"), (5 * GIB, "warn"), (50 * GIB, "ok")])
def test_disk(monkeypatch: pytest.MonkeyPatch, free: int, status: str) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    found = preflight.check_disk("disk", "/x")
    assert found.status == status and found.message.startswith(f"{free / GIB:.1f} GiB are free at /x")


# ---- S3


@pytest.fixture
def examined(bucket: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Check]]:
    """Runs the checks of a location in the bucket, through a proxy with given faults."""

    def run(
        uri: str = "", refuse: Callable[[str, str], Refusal | None] | None = None, **headers: str
    ) -> dict[str, Check]:
        with (
            FaultyS3(os.environ["AWS_ENDPOINT_URL"], refuse=refuse, headers=headers) as proxy,
            pytest.MonkeyPatch.context() as patch,
        ):
            patch.setenv("AWS_ENDPOINT_URL", proxy.url)
            return by_name(list(preflight.check_s3(uri or storage.join(bucket, "doctor"))))

    return run


def only(method: str, status: int, code: str) -> Callable[[str, str], Refusal | None]:
    """Refuses one method except for listings."""
    return lambda m, path: (status, code) if m == method and "list-type" not in path else None


@pytest.mark.slow
def test_a_usable_bucket_is_not_changed(bucket: str) -> None:
    uri = storage.join(bucket, "sound")
    storage.write_bytes(storage.join(uri, "x"), b"x")
    checks = by_name(list(preflight.check_s3(uri)))
    assert {c.status for c in checks.values()} == {"ok"}
    assert set(checks) == {"credentials", "endpoint", "clock", "region", "list", "write", "read", "delete"}
    assert storage.list_files(uri) == [storage.join(uri, "x")]
    storage.remove(uri)
    assert by_name(list(preflight.check_s3(uri)))["list"].message == f"{uri} is empty"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (403, "InvalidAccessKeyId", "does not know the access key"),
        (403, "SignatureDoesNotMatch", "secret key does not belong"),
        (403, "RequestTimeTooSkewed", "clock is wrong"),
        (404, "NoSuchBucket", "there is no bucket"),
    ],
)
def test_an_error_of_all_requests_is_reported_once(
    examined: Callable[..., dict[str, Check]], status: int, code: str, message: str
) -> None:
    checks = examined(refuse=lambda method, path: (status, code))
    assert [c.name for c in checks.values() if c.status == "fail"] == ["list"]
    assert message in checks["list"].message
    assert "write" not in checks


@pytest.mark.slow
def test_a_missing_bucket(examined: Callable[..., dict[str, Check]]) -> None:
    assert "there is no bucket s2v-no-such-bucket" in examined("s3://s2v-no-such-bucket/x")["list"].message


@pytest.mark.slow
@pytest.mark.parametrize(("method", "failed"), [("PUT", "write"), ("GET", "read"), ("DELETE", "delete")])
def test_each_right_is_checked_by_itself(
    examined: Callable[..., dict[str, Check]], bucket: str, method: str, failed: str
) -> None:
    uri = storage.join(bucket, f"rights-{method}")
    storage.write_bytes(storage.join(uri, "x"), b"x")
    checks = examined(uri, refuse=only(method, 403, "AccessDenied"))
    assert {c.name for c in checks.values() if c.status == "fail"} == {failed}
    assert checks["read"].status == ("fail" if method == "GET" else "ok")
    assert storage.list_files(uri) == [storage.join(uri, "x")], "an object that cannot be removed was written"
    storage.remove(uri)


@pytest.mark.slow
def test_a_missing_right_to_list_hides_no_other_right(examined: Callable[..., dict[str, Check]]) -> None:
    checks = examined(refuse=lambda method, path: (403, "AccessDenied") if "list-type" in path else None)
    assert {name: c.status for name, c in checks.items() if name in ("list", "write", "read", "delete")} == {
        "list": "fail",
        "write": "ok",
        "read": "ok",
        "delete": "ok",
    }


@pytest.mark.slow
def test_clock_and_region_of_the_answer(examined: Callable[..., dict[str, Check]]) -> None:
    checks = examined(date=formatdate(0, usegmt=True), **{"x-amz-bucket-region": "mars-north-1"})
    assert checks["clock"].status == "fail"
    assert checks["region"].status == "warn" and "set AWS_REGION=mars-north-1" in checks["region"].message


@pytest.mark.parametrize(
    ("ahead", "status", "words"),
    [(5, "ok", "agree"), (-300, "warn", "300 s behind"), (1000, "fail", "1000 s ahead of")],
)
def test_clock(ahead: float, status: str, words: str) -> None:
    found = preflight.check_clock("Thu, 01 Jan 2026 00:00:00 GMT", 1767225600 + ahead)
    assert found.status == status and words in found.message


def test_no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_DEFAULT_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    assert [(c.name, c.status) for c in preflight.check_s3("s3://b/x")] == [("credentials", "fail")]
    monkeypatch.setenv("AWS_PROFILE", "absent")
    assert (
        "AWS_PROFILE names a profile that is not"
        in by_name(list(preflight.check_s3("s3://b/x")))["credentials"].message
    )


def test_an_endpoint_that_does_not_respond(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "k",
        "AWS_SECRET_ACCESS_KEY": "planted-secret",
        "AWS_ENDPOINT_URL": "http://me:planted@127.0.0.1:1",
    }.items():
        monkeypatch.setenv(name, value)
    checks = by_name(list(preflight.check_s3("s3://b/x")))
    assert (
        checks["endpoint"].status == "fail" and "http://***@127.0.0.1:1 does not answer" in checks["endpoint"].message
    )
    assert "planted" not in str(checks)


# ---- this machine


def test_packages_against_the_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ["torch>=2,<3", "ray[data]==9.*", "nothere>=1", "moto>=99; extra == 'dev'"]
    versions = {"torch": "2.1+cpu", "ray": "8.0", "moto": "1.0"}

    def version(name: str) -> str:
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(importlib.metadata, "requires", lambda name: asked)
    monkeypatch.setattr(importlib.metadata, "version", version)
    found = preflight.check_packages()
    assert found == Check(
        "packages", "fail", "ray is 8.0, not ==9.*; nothere is absent, not >=1: install again (make install)"
    )
    versions |= {"ray": "9.1", "nothere": "1"}
    assert preflight.check_packages() == Check(
        "packages", "ok", "3 packages are in their ranges (torch 2.1+cpu, ray 9.1)"
    )


@pytest.mark.parametrize(
    ("torch", "driver", "expected"),
    [
        (PythonResult("2.13 13.0 2 NVIDIA H100 80GB", None), True, {"torch": "ok", "cuda": "ok"}),
        (PythonResult("2.13+cpu None 0", None), False, {"torch": "ok", "cuda": "warn"}),
        (PythonResult("2.13 13.0 0", None), True, {"torch": "ok", "cuda": "fail"}),
        (PythonResult("", "ImportError: libcudart"), True, {"torch": "fail"}),
    ],
)
def test_libraries(
    monkeypatch: pytest.MonkeyPatch, torch: PythonResult, driver: bool, expected: dict[str, str]
) -> None:
    monkeypatch.setattr(
        preflight, "run_python", lambda code: torch if "import torch" in code else PythonResult("2.60.0", None)
    )
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/nvidia-smi" if driver else None)
    assert statuses(list(preflight.check_libraries())) == {"ray": "ok", **expected}


def test_results_of_short_programs() -> None:
    assert preflight.run_python("print('a'); print('b')") == PythonResult("b", None)
    failed = preflight.run_python("raise ImportError('no libcudart')")
    assert failed == PythonResult("", "ImportError: no libcudart")
    ended = preflight.run_python("import os; os._exit(3)")
    assert ended == PythonResult("", "the process ended with status 3")
    slow = preflight.run_python("import time; time.sleep(9)", seconds=0.1)
    assert slow == PythonResult("", "it takes more than 0 s")


# ---- the command


@pytest.fixture
def healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "run_python", lambda code: PythonResult("2.60.0 None 0", None))
    monkeypatch.setattr(preflight, "check_packages", lambda: Check("packages", "ok", "fine"))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=50 * GIB))


def test_the_command_prints_a_line_for_each_check(
    tmp_path: Path, healthy: None, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "place").mkdir()
    assert cli.main(["doctor", str(tmp_path / "place"), "--json", str(tmp_path / "out.json")]) == 0
    result = json.loads((tmp_path / "out.json").read_text())["result"]
    assert result["failed"] == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(result["checks"]) and lines[0] == f"ok    place           {tmp_path}/place exists"


def test_the_command_fails_where_a_check_fails_and_still_writes_json(tmp_path: Path, healthy: None) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert cli.main(["doctor", str(tmp_path / "file"), "--json", str(tmp_path / "out.json")]) == 1
    result = json.loads((tmp_path / "out.json").read_text())["result"]
    assert result["failed"] == 1 and result["checks"][0]["status"] == "fail"


def test_a_place_of_an_unknown_kind(healthy: None) -> None:
    first = next(preflight.run_checks("gs://me:planted@bucket/x"))
    assert first.status == "fail" and "planted" not in first.message
