from __future__ import annotations

import io
import json
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from s3fs import S3FileSystem

from s2v_ray import storage
from s2v_ray.storage import ArtifactError, StoreError
from tests.helpers.faulty_s3 import FAULTS, FaultyS3


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.slow)])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "local" else storage.join(request.getfixturevalue("bucket"), tmp_path.name)


def test_join_has_one_slash_between_parts() -> None:
    assert storage.join("s3://bucket/a/", "/b/", "c.txt") == "s3://bucket/a/b/c.txt"
    assert storage.join("/", "a") == "/a"


def test_absolute_changes_local_paths_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert storage.absolute("runs/1") == str(tmp_path / "runs/1")
    assert storage.absolute("s3://runs/1") == "s3://runs/1"


def test_written_bytes_are_read_listed_and_removed(root: str) -> None:
    first, second = storage.join(root, "train", "b.parquet"), storage.join(root, "train", "sub", "a.parquet")
    for uri in (first, second, storage.join(root, "train", "note.txt")):
        storage.write_bytes(uri, uri.encode())
    assert storage.read_bytes(first) == first.encode()
    assert storage.list_files(storage.join(root, "train"), ".parquet") == [first, second]
    assert storage.exists(first)
    storage.remove(storage.join(root, "train"))
    assert not storage.exists(first)
    assert storage.list_files(storage.join(root, "train")) == []
    storage.remove(first)  # no error


def test_a_missing_object_is_file_not_found(root: str) -> None:
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(storage.join(root, "nothing"))


def test_a_fingerprint_changes_with_what_is_stored(root: str) -> None:
    place = storage.join(root, "folder")
    storage.write_bytes(storage.join(place, "a.mp4"), b"one")
    first = storage.fingerprint(place)
    assert storage.fingerprint(place) == first
    storage.write_bytes(storage.join(place, "b.mp4"), b"two")
    second = storage.fingerprint(place)
    storage.write_bytes(storage.join(place, "manifest.json"), b"{}")
    with_manifest = storage.fingerprint(place)
    storage.write_bytes(storage.join(place, "c.mp4"), b"three")
    assert len({first, second, with_manifest}) == 3
    assert storage.fingerprint(place) == with_manifest == storage.sha256(b"{}")
    storage.write_bytes(storage.join(root, "run", "bundle", "manifest.json"), b"{}")
    assert storage.fingerprint(storage.join(root, "run")) == with_manifest


def test_listing_sees_what_another_process_wrote(root: str) -> None:
    storage.write_bytes(storage.join(root, "shards", "0"), b"")
    assert len(storage.list_files(storage.join(root, "shards"))) == 1
    fs, path = storage.filesystem(storage.join(root, "shards", "1"))
    other = fsspec.filesystem("s3" if "s3" in fs.protocol else "file", skip_instance_cache=True)
    other.pipe_file(path, b"")
    assert storage.exists(storage.join(root, "shards", "1"))
    assert len(storage.list_files(storage.join(root, "shards"))) == 2


def test_download_gives_a_local_copy(root: str, tmp_path: Path) -> None:
    uri = storage.join(root, "weights.onnx")
    storage.write_bytes(uri, b"weights")
    assert Path(storage.download(uri, str(tmp_path))).read_bytes() == b"weights"


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = str(tmp_path / "manifest.json")
    storage.write_bytes(uri, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        storage.write_bytes(uri, b"new")
    assert storage.read_bytes(uri) == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["manifest.json"]


def test_check_writable_leaves_no_file(root: str) -> None:
    storage.check_writable(root)
    assert storage.list_files(root) == []


def test_check_writable_names_the_target(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ArtifactError, match=r"^cannot write to .*/file/run: "):
        storage.check_writable(str(tmp_path / "file" / "run"))


def test_sha256_of_a_known_value() -> None:
    assert storage.sha256(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_manifest_round_trip(root: str) -> None:
    written = storage.write_manifest(root, "corpus", 1, config_digest="d", parents={})
    read = storage.read_manifest(root, "corpus", 1)
    assert read == written
    assert read["kind"] == "corpus" and read["config_digest"] == "d" and read["versions"]["python"].startswith("3.")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"there is no corpus at .*: no manifest.json is there"),
        (b"{", r"manifest.json is damaged"),
        (b"\xff\xfe", r"manifest.json is damaged"),
        (b"[]", r"manifest.json is damaged: it is not a mapping"),
        (b"{}", r"is an artifact without a kind, not a corpus"),
        (b'{"kind": "bundle", "schema": 1}', r"is a bundle, not a corpus"),
        (b'{"kind": "corpus", "schema": 7}', r"was made by schema 7 of corpus, this version reads 1: make it again"),
    ],
)
def test_an_unusable_manifest_is_an_error_of_one_line(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(ArtifactError, match=message) as caught:
        storage.read_manifest(str(tmp_path), "corpus", 1)
    assert "\n" not in str(caught.value)


def test_a_file_is_not_an_artifact(tmp_path: Path) -> None:
    (tmp_path / "speech.wav").write_bytes(b"")
    with pytest.raises(ArtifactError, match="there is no bundle at"):
        storage.read_manifest(str(tmp_path / "speech.wav"), "bundle", 1)


def test_json_is_stable(tmp_path: Path) -> None:
    uri = str(tmp_path / "x.json")
    storage.write_json(uri, {"b": 1, "a": [1.5]})
    first = storage.read_bytes(uri)
    storage.write_json(uri, {"a": [1.5], "b": 1})
    assert storage.read_bytes(uri) == first
    assert json.loads(first) == storage.read_json(uri)


# ---- local or not


def test_local_path_of_local_and_remote_uris(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert storage.local_path("a/b") == str(tmp_path / "a/b")
    assert storage.local_path("file:///a/b") == "/a/b"
    assert storage.local_path("s3://a/b") is None
    assert storage.local_path("memory://a") is None


def test_a_uri_with_credentials_is_refused_without_repeating_them() -> None:
    with pytest.raises(ArtifactError, match=r"^s3://\*\*\*@bucket/x carries credentials: leave them out") as caught:
        storage.read_bytes("s3://AKIA123:hunter2@bucket/x")
    assert "hunter2" not in str(caught.value) and caught.value.__cause__ is None


# ---- S3


@pytest.fixture
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")


def through(proxy: FaultyS3, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sends requests to S3 through ``proxy`` from here on."""
    S3FileSystem.clear_instance_cache()
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)


def configured() -> S3FileSystem:
    S3FileSystem.clear_instance_cache()
    fs, _ = storage.filesystem("s3://b")
    fs.connect()
    return fs


def test_settings_come_from_the_usual_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_MAX_ATTEMPTS"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "credentials").write_text("[lab]\naws_access_key_id = AKIALAB\naws_secret_access_key = s\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_PROFILE", "lab")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    fs = configured()
    meta = fs.s3.meta
    assert (meta.endpoint_url, meta.region_name) == ("http://127.0.0.1:1", "eu-central-1")
    assert fs.session._credentials.access_key == "AKIALAB"
    assert meta.config.retries == {"mode": "standard", "total_max_attempts": storage.MAX_ATTEMPTS}
    assert (meta.config.connect_timeout, meta.config.read_timeout) == (storage.CONNECT_SECONDS, storage.READ_SECONDS)
    monkeypatch.setenv("AWS_REGION", "eu-west-3")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "3")
    meta = configured().s3.meta
    assert meta.region_name == "eu-west-3"
    assert meta.config.retries == {"mode": "standard", "total_max_attempts": 3}
    S3FileSystem.clear_instance_cache()


@pytest.mark.slow
def test_a_missing_object_or_bucket(bucket: str) -> None:
    missing = "s3://s2v-no-such-bucket/corpus"
    assert not storage.exists(missing)
    assert not storage.exists("s3://s2v-no-such-bucket")
    storage.remove(missing)  # no error
    for act in (
        storage.read_bytes,
        storage.list_files,
        storage.check_writable,
        lambda uri: storage.read_manifest(uri, "corpus", 1),
    ):
        with pytest.raises(ArtifactError, match="there is no bucket s2v-no-such-bucket at http"):
            act(missing)
    with pytest.raises(ArtifactError, match="there is no corpus at s3://"):
        storage.read_manifest(storage.join(bucket, "nowhere"), "corpus", 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (403, "AccessDenied", "access is denied: ask for the rights"),
        (403, "InvalidAccessKeyId", "does not know the access key: check AWS_ACCESS_KEY_ID"),
        (403, "SignatureDoesNotMatch", "the secret key does not belong to the access key"),
        (403, "RequestTimeTooSkewed", "clock is wrong"),
        (400, "ExpiredToken", "the session token has expired"),
        (400, "IllegalLocationConstraintException", "is in another region: set AWS_REGION"),
        (503, "SlowDown", "is overloaded or broken"),
        (418, "Teapot", r"refuses \(Teapot: no\)"),
    ],
)
def test_a_refused_request_is_an_error_of_one_line(
    bucket: str, monkeypatch: pytest.MonkeyPatch, no_patience: None, status: int, code: str, message: str
) -> None:
    monkeypatch.setattr(S3FileSystem, "retries", 1)
    with FaultyS3(os.environ["AWS_ENDPOINT_URL"], refuse=lambda method, path: (status, code)) as proxy:
        through(proxy, monkeypatch)
        uri = storage.join(bucket, "x")
        for action, act in {
            "read": storage.read_bytes,
            "list": storage.list_files,
            "write": lambda uri: storage.write_bytes(uri, b"x"),
        }.items():
            with pytest.raises(StoreError, match=rf"^cannot {action} {uri}: .*{message}") as caught:
                act(uri)
            assert "\n" not in str(caught.value)
        with pytest.raises(
            StoreError, match=r"^cannot look at"
        ):  # the response to a HEAD request has a status but no code
            storage.exists(uri)


def test_missing_credentials_are_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_DEFAULT_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    S3FileSystem.clear_instance_cache()
    with pytest.raises(
        StoreError, match=r"^cannot read s3://b/x: no usable credentials were found: set AWS_ACCESS_KEY_ID"
    ):
        storage.read_bytes("s3://b/x")
    S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://127.0.0.1:1", r"http://127.0.0.1:1 does not answer: check AWS_ENDPOINT_URL"),
        ("http://me:hunter2@127.0.0.1:1", r"the connection to http://\*\*\*@127.0.0.1:1 broke off"),
    ],
)
def test_an_endpoint_that_does_not_respond_is_explained(
    monkeypatch: pytest.MonkeyPatch, no_patience: None, url: str, message: str
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    monkeypatch.setattr(S3FileSystem, "retries", 1)
    S3FileSystem.clear_instance_cache()
    with pytest.raises(StoreError, match=f"^cannot write s3://b/x: {message}"):
        storage.write_bytes("s3://b/x", b"")
    S3FileSystem.clear_instance_cache()


@pytest.mark.slow
def test_an_object_that_the_server_does_not_delete_is_an_error(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """DeleteObjects responds with 200 and lists the objects that it kept in the body, which s3fs ignores."""
    uri = storage.join(bucket, "kept", "x")
    storage.write_bytes(uri, b"x")
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setattr(S3FileSystem, "_bulk_delete", _deletes_nothing)
    S3FileSystem.clear_instance_cache()
    with pytest.raises(StoreError, match=r"^cannot remove .*/kept: the server leaves it there"):
        storage.remove(storage.join(bucket, "kept"))
    assert storage.read_bytes(uri) == b"x"


async def _deletes_nothing(fs: S3FileSystem, paths: list[str], **_: object) -> list[str]:
    return []


@pytest.mark.slow
def test_a_fifth_of_the_requests_fails_and_no_data_is_lost(
    bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    draw = random.Random(7)
    sizes = [0, 1, 3_000_000, *(int(10 ** draw.uniform(0, 6.4)) for _ in range(197))]
    root = storage.join(bucket, "faults")
    written = {storage.join(root, f"{i % 7}", f"{i:03d}.bin"): draw.randbytes(n) for i, n in enumerate(sizes)}
    table = pa.table({"id": range(4000), "data": [draw.randbytes(300) for _ in range(4000)]})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=100, compression="none")
    with FaultyS3(os.environ["AWS_ENDPOINT_URL"], share=0.2, seed=1) as proxy, ThreadPoolExecutor(8) as pool:
        through(proxy, monkeypatch)
        list(pool.map(storage.write_bytes, written, written.values()))
        assert storage.list_files(root) == sorted(written)
        assert dict(zip(written, pool.map(storage.read_bytes, written), strict=True)) == written
        big = max(written, key=lambda uri: len(written[uri]))
        assert Path(storage.download(big, str(tmp_path))).read_bytes() == written[big]

        storage.write_bytes(storage.join(root, "shard.parquet"), buffer.getvalue())
        fs, path = storage.filesystem(storage.join(root, "shard.parquet"))
        with (
            fs.open(path, "rb", cache_type="none") as f,
            pq.ParquetFile(f, pre_buffer=True) as shard,
        ):  # as training.stream does
            order = draw.sample(range(shard.num_row_groups), shard.num_row_groups)
            groups = {g: shard.read_row_group(g) for g in order}
        assert pa.concat_tables(groups[g] for g in sorted(groups)).equals(table)

        storage.remove(root)
        assert storage.list_files(root) == []
        assert proxy.requests > 500
        assert all(proxy.faults[fault] > 10 for fault in FAULTS), proxy.faults
        assert 0.15 < proxy.faults.total() / proxy.requests < 0.25
