from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from s2v_ray import storage
from s2v_ray.storage import ArtifactError


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """An S3 server in a thread of this process, reached as users reach theirs: by environment variables."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        fs, _ = storage.filesystem("s3://corpora")
        fs.mkdir("corpora")
        yield "s3://corpora"
        type(fs).clear_instance_cache()
    server.stop()


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.slow)])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "local" else storage.join(request.getfixturevalue("bucket"), tmp_path.name)


def test_join_has_one_slash_between_parts() -> None:
    assert storage.join("s3://bucket/a/", "/b/", "c.txt") == "s3://bucket/a/b/c.txt"
    assert storage.join("/", "a") == "/a"


def test_absolute_moves_local_paths_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert storage.absolute("runs/1") == str(tmp_path / "runs/1")
    assert storage.absolute("s3://runs/1") == "s3://runs/1"


def test_written_bytes_come_back_and_are_listed_and_removed(root: str) -> None:
    first, second = storage.join(root, "train", "b.parquet"), storage.join(root, "train", "sub", "a.parquet")
    for uri in (first, second, storage.join(root, "train", "note.txt")):
        storage.write_bytes(uri, uri.encode())
    assert storage.read_bytes(first) == first.encode()
    assert storage.list_files(storage.join(root, "train"), ".parquet") == [first, second]
    assert storage.exists(first)
    storage.remove(storage.join(root, "train"))
    assert not storage.exists(first)
    assert storage.list_files(storage.join(root, "train")) == []
    storage.remove(first)  # nothing there: nothing happens


def test_a_missing_object_is_file_not_found(root: str) -> None:
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(storage.join(root, "nothing"))


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


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = str(tmp_path / "manifest.json")
    storage.write_bytes(uri, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        storage.write_bytes(uri, b"new")
    assert storage.read_bytes(uri) == b"old"
    assert os.listdir(tmp_path) == ["manifest.json"]


def test_check_writable_passes_and_leaves_nothing(root: str) -> None:
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
        (b"{}", r"is a thing of no kind, not a corpus"),
        (b'{"kind": "bundle", "schema": 1}', r"is a bundle, not a corpus"),
        (b'{"kind": "corpus", "schema": 7}', r"was made by schema 7 of corpus, this version reads 1: make it again"),
    ],
)
def test_a_manifest_that_will_not_do_is_refused_in_one_sentence(tmp_path: Path, content: bytes | None, message: str) -> None:
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
