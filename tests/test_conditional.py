"""Compare-and-swap: of concurrent writers exactly one succeeds, on a local folder and on S3."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from s2v_ray import conditional, storage


@pytest.fixture(params=["local", "s3", "memory"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "s3":
        yield storage.join(request.getfixturevalue("bucket"), tmp_path.name, "conditional", "object.json")
    else:
        yield f"memory://{tmp_path}/object" if request.param == "memory" else str(tmp_path / "a" / "object.json")


def test_an_object_is_created_once_and_replaced_by_whoever_read_it_last(uri: str) -> None:
    assert conditional.read(uri) is None
    with pytest.raises(conditional.ConflictError):
        conditional.write(uri, b"0", "an ETag of nothing")
    first = conditional.write(uri, b"1", None)
    assert conditional.read(uri) == (b"1", first)
    with pytest.raises(conditional.ConflictError):
        conditional.write(uri, b"2", None)
    second = conditional.write(uri, b"2", first)
    with pytest.raises(conditional.ConflictError):
        conditional.write(uri, b"3", first)
    assert conditional.read(uri) == (b"2", second) and first != second


def test_no_increment_of_concurrent_writers_is_lost(uri: str) -> None:
    conditional.write(uri, json.dumps([]).encode(), None)

    def add(name: str) -> None:
        done = 0
        while done < 5:
            found = conditional.read(uri)
            assert found is not None
            entries = [*json.loads(found[0]), f"{name}{done}"]
            try:
                conditional.write(uri, json.dumps(entries).encode(), found[1])
                done += 1
            except conditional.ConflictError:
                pass

    threads = [threading.Thread(target=add, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = conditional.read(uri)
    assert found is not None
    assert sorted(json.loads(found[0])) == sorted(f"{name}{i}" for name in "abc" for i in range(5))


def test_a_write_whose_response_was_lost_counts_as_done(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """botocore repeats the request, which then fails, because the first one succeeded."""
    uri = storage.join(bucket, "conditional", "lost.json")
    fs, _ = storage.filesystem(uri)
    put, calls = type(fs)._call_s3, []

    async def twice(self: Any, method: str, **options: Any) -> Any:
        calls.append(method)
        if method == "put_object":
            await put(self, method, **options)
        return await put(self, method, **options)

    with monkeypatch.context() as patch:
        patch.setattr(type(fs), "_call_s3", twice)
        first = conditional.write(uri, b"1", None)
        second = conditional.write(uri, b"2", first)
    assert calls == ["put_object", "get_object"] * 2
    assert conditional.read(uri) == (b"2", second)


def test_an_error_of_the_store_is_explained(bucket: str) -> None:
    with pytest.raises(storage.StoreError, match="there is no bucket"):
        conditional.write("s3://no-such-bucket-of-ours/x", b"1", None)


def test_a_process_that_keeps_the_lock_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditional, "LOCK_SECONDS", 0.05)
    uri = str(tmp_path / "object")
    with conditional._locked(uri), pytest.raises(storage.StoreError, match="is locked by another process"):
        conditional.write(uri, b"1", None)
    conditional.write(uri, b"1", None)


def test_other_storage_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "local_path", lambda uri: None)
    with pytest.raises(storage.ArtifactError, match="conditional writes need a local path or s3://"):
        conditional.write("file:///tmp/x", b"1", None)


def test_a_server_that_compares_etags_without_quotes(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Ceph's does: the header with quotes fails, and the one without succeeds."""
    uri = storage.join(bucket, "conditional", "quotes.json")
    fs, _ = storage.filesystem(uri)
    put, sent = type(fs)._call_s3, []

    async def like_ceph(self: Any, method: str, **options: Any) -> Any:
        if method == "put_object" and (etag := options.get("IfMatch")):
            sent.append(etag)
            options["IfMatch"] = '"another"' if etag.startswith('"') else f'"{etag}"'
        return await put(self, method, **options)

    first = conditional.write(uri, b"1", None)
    monkeypatch.setattr(type(fs), "_call_s3", like_ceph)
    second = conditional.write(uri, b"2", first)
    assert sent == [first, first.strip('"')] and conditional.read(uri) == (b"2", second)
    with pytest.raises(conditional.ConflictError):
        conditional.write(uri, b"3", first)
    assert len(sent) == 3, "another object is there, so the second form is not sent"
    assert conditional.read(uri) == (b"2", second)
