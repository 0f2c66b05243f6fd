from __future__ import annotations

import pickle

import pytest

from s2v_ray import errors
from s2v_ray.errors import ArtifactError, StoreError, explain_error


@pytest.mark.parametrize(
    ("text", "scrubbed"),
    [
        ("no key at s3://AKIA123:p4/ss+w@bucket/key, sorry", "no key at s3://***@bucket/key, sorry"),
        ("https://user@host/x", "https://***@host/x"),
        ("s3://bucket/mail/me@home/x.mp4", "s3://bucket/mail/me@home/x.mp4"),
        ("s3://bucket/a and me@home", "s3://bucket/a and me@home"),
        (
            "https://h/b/k?X-Amz-Credential=AKIA%2F2026&X-Amz-Date=1&X-Amz-Security-Token=tok&X-Amz-Signature=f00",
            "https://h/b/k?X-Amz-Credential=***&X-Amz-Date=1&X-Amz-Security-Token=***&X-Amz-Signature=***",
        ),
        ("AWS4-HMAC-SHA256 Credential=AKIA/x, Signature=abc", "AWS4-HMAC-SHA256 Credential=***, Signature=***"),
        ("the secret is hunter2hunter2.", "the secret is ***."),
    ],
)
def test_scrub_removes_secrets_and_nothing_else(text: str, scrubbed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2hunter2")
    assert errors.scrub(text) == scrubbed


@pytest.mark.parametrize("kind", [ArtifactError, StoreError])
def test_errors_contain_no_secrets_and_can_be_pickled(kind: type[ArtifactError]) -> None:
    error = kind("cannot read s3://AKIA:hunter2@bucket/x")
    assert str(error) == "cannot read s3://***@bucket/x"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


# ---- explanations


class ClientError(Exception):
    """As botocore's: the response of the server is an attribute."""

    def __init__(self, code: str, message: str = "no") -> None:
        super().__init__(code)
        self.response = {"Error": {"Code": code, "Message": message}}


class EndpointConnectionError(Exception):
    """As botocore's, which is known by its name."""


@pytest.fixture(autouse=True)
def _endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://store:9000")


def caused_by(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "explanation"),
    [
        (ClientError("NoSuchBucket"), "there is no bucket b at http://store:9000: create it"),
        (ClientError("AccessDenied"), "access is denied: ask for the rights"),
        (ClientError("403"), "access is denied: ask for the rights"),
        (ClientError("SlowDown"), "http://store:9000 is overloaded or broken"),
        (ClientError("Teapot", "short and stout"), "http://store:9000 refuses (Teapot: short and stout)"),
        (EndpointConnectionError(), "http://store:9000 does not answer: check AWS_ENDPOINT_URL"),
        (caused_by(PermissionError("x"), ClientError("AccessDenied")), "access is denied"),
    ],
)
def test_errors_of_the_store_are_explained(error: Exception, explanation: str) -> None:
    found = explain_error(error, "s3://b/key")
    assert found is not None and found.startswith(explanation)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x"),
        ClientError("InvalidRange"),
        caused_by(FileNotFoundError("x"), ClientError("NoSuchKey")),
        FileNotFoundError("x"),
    ],
)
def test_other_errors_and_missing_objects_are_not_explained(error: Exception) -> None:
    assert explain_error(error, "s3://b/key") is None


def test_endpoint_and_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    assert errors.bucket_of("s3://b/k/x") == "b"
    assert errors.endpoint() == "http://store:9000"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://s3:9000")
    assert errors.endpoint() == "http://s3:9000"
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    assert errors.endpoint() == "AWS"


def test_user_information_in_uris() -> None:
    assert errors.has_credentials("s3://AKIA:secret@bucket/x")
    assert not errors.has_credentials("s3://bucket/me@home/x")
