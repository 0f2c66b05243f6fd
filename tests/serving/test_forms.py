"""Fields of the form: their validation, and the requests that they become."""

from __future__ import annotations

import io

import pytest
from fastapi import UploadFile
from fastapi.testclient import TestClient

from s2v_ray.serving.errors import ApiError
from s2v_ray.serving.forms import FIELDS, VideoForm, check_fields, validate, validate_for_bundle
from s2v_ray.serving.settings import ServeSettings
from tests.helpers.http import assert_refused, make_png, post
from tests.helpers.sounds import speech, wav

SETTINGS = ServeSettings(bundle="b", reference="r", bundles={"other": "o"})
EMOTIONS = ("neutral", "happy")


def upload() -> UploadFile:
    return UploadFile(io.BytesIO(b"content"))


def make_form(**fields: object) -> VideoForm:
    return VideoForm(speech=upload(), **fields)  # type: ignore[arg-type]  # fields that a test names


def test_the_bundle_is_the_default_one_or_named() -> None:
    assert validate(make_form(), SETTINGS) == "default"
    assert validate(make_form(model="other"), SETTINGS) == "other"
    with pytest.raises(ApiError, match="there is no bundle '../../etc'"):
        validate(make_form(model="../../etc"), SETTINGS)


@pytest.mark.parametrize("size", [0, 16, 256, 512])
def test_sizes_that_are_allowed(size: int) -> None:
    validate(make_form(size=size), SETTINGS)


@pytest.mark.parametrize("size", [2, 33, 514])
def test_sizes_that_are_not_allowed(size: int) -> None:
    with pytest.raises(ApiError, match="size: must be an even number from 16 to 512"):
        validate(make_form(size=size), SETTINGS)


@pytest.mark.parametrize(
    ("form", "reference", "code"),
    [
        (make_form(emotion="bored"), False, "unknown_emotion"),
        (make_form(emotion="happy", emotion_speech=upload()), False, "bad_request"),
        (make_form(face=upload(), identity_speech=upload()), False, "bad_request"),
        (make_form(), True, "face_needed"),
    ],
)
def test_fields_that_do_not_fit_the_bundle(form: VideoForm, reference: bool, code: str) -> None:
    with pytest.raises(ApiError) as caught:
        validate_for_bundle(form, EMOTIONS, reference)
    assert caught.value.code == code


def test_fields_that_fit_the_bundle() -> None:
    validate_for_bundle(make_form(emotion="happy"), EMOTIONS, reference=False)
    validate_for_bundle(make_form(face=upload()), EMOTIONS, reference=True)
    validate_for_bundle(make_form(identity_speech=upload(), emotion_speech=upload()), EMOTIONS, reference=False)


def test_misspelt_fields_are_refused() -> None:
    check_fields(FIELDS)
    with pytest.raises(ApiError, match="emotoin: there is no such field; use identity_speech, face, take, "):
        check_fields(["speech", "emotoin"])


@pytest.mark.parametrize(
    ("data", "code", "message"),
    [
        ({"emotion": "bored"}, "unknown_emotion", "neutral, happy, angry"),
        ({"model": "../../etc"}, "unknown_model", "GET /v1/models"),
        ({"model": "reference"}, "face_needed", "needs a picture"),
        ({"seed": "-1"}, "bad_request", "seed: "),
        ({"seed": "1e99"}, "bad_request", "seed: "),
        ({"size": "33"}, "bad_request", "size: must be an even number from 16 to 512"),
        ({"emotoin": "happy"}, "bad_request", "emotoin: there is no such field"),
    ],
)
def test_unusable_fields_are_refused_over_http(
    client: TestClient, data: dict[str, str], code: str, message: str
) -> None:
    assert message in assert_refused(post(client, data=data, speech=wav(speech(0.2))), code)


def test_contradictions_are_refused_over_http(client: TestClient) -> None:
    sound = wav(speech(0.2))
    assert_refused(post(client, speech=sound, face=make_png(), identity_speech=sound), "bad_request")
    assert_refused(post(client, data={"emotion": "happy"}, speech=sound, emotion_speech=sound), "bad_request")
