"""Fields of the form: their validation, and the requests that they become."""

from __future__ import annotations

import io
import random

import pytest
from fastapi import UploadFile
from fastapi.testclient import TestClient

from s2v_ray.serving.errors import ApiError
from s2v_ray.serving.forms import VideoForm, choose_bundle, parse_side, validate_for_bundle
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
    assert choose_bundle("", SETTINGS) == "default"
    assert choose_bundle("other", SETTINGS) == "other"
    with pytest.raises(ApiError, match="there is no bundle '../../etc'"):
        choose_bundle("../../etc", SETTINGS)


def test_the_canary_gets_its_share_of_the_requests_that_name_no_bundle() -> None:
    settings = ServeSettings(bundle="b", bundles={"new": "n", "other": "o"}, canary="new", canary_share=0.25)
    random.seed(0)
    chosen = [choose_bundle("", settings) for _ in range(4000)]
    assert set(chosen) == {"default", "new"}
    assert chosen.count("new") == pytest.approx(1000, abs=100)
    assert {choose_bundle("other", settings) for _ in range(100)} == {"other"}


@pytest.mark.parametrize(("size", "side"), [("", None), ("16x16", 16), ("256x256", 256), ("512x512", 512)])
def test_sizes_that_are_allowed(size: str, side: int | None) -> None:
    assert parse_side(size, SETTINGS.limits) == side


@pytest.mark.parametrize("size", ["14x14", "33x33", "514x514", "720x1280", "64", "x", "64x64x64", "٦٤x٦٤"])
def test_sizes_that_are_not_allowed(size: str) -> None:
    with pytest.raises(
        ApiError, match="size: must be SIDExSIDE, with an even number of pixels from 16 to 512"
    ) as caught:
        parse_side(size, SETTINGS.limits)
    assert caught.value.code == "unsupported_size"


@pytest.mark.parametrize(
    ("form", "reference", "code"),
    [
        (make_form(emotion="bored"), False, "unknown_emotion"),
        (make_form(emotion="happy", emotion_speech=upload()), False, "conflicting_fields"),
        (make_form(face=upload(), identity_speech=upload()), False, "conflicting_fields"),
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


@pytest.mark.parametrize(
    ("data", "code", "message"),
    [
        ({"emotion": "bored"}, "unknown_emotion", "neutral, happy, angry"),
        ({"model": "../../etc"}, "unknown_model", "GET /v1/models"),
        ({"model": "reference"}, "face_needed", "needs a picture"),
        ({"seed": "-1"}, "bad_request", "seed: "),
        ({"seed": "1e99"}, "bad_request", "seed: "),
        ({"size": "33x33"}, "unsupported_size", "size: must be SIDExSIDE"),
        ({"seconds": "0"}, "bad_request", "seconds: "),
        ({"seconds": "nan"}, "bad_request", "seconds: "),
        ({"prompt": "x" * 4001}, "bad_request", "prompt: "),
        ({"emotoin": "happy"}, "bad_request", "emotoin: there is no such field"),
    ],
)
def test_unusable_fields_are_refused_over_http(
    client: TestClient, data: dict[str, str], code: str, message: str
) -> None:
    assert message in assert_refused(post(client, data=data, speech=wav(speech(0.2))), code)


def test_contradictions_are_refused_over_http(client: TestClient) -> None:
    sound = wav(speech(0.2))
    assert_refused(post(client, speech=sound, face=make_png(), identity_speech=sound), "conflicting_fields")
    assert_refused(post(client, data={"emotion": "happy"}, speech=sound, emotion_speech=sound), "conflicting_fields")
    assert_refused(post(client, speech=sound, input_reference=sound), "conflicting_fields")
    assert "-F speech=@speech.wav" in assert_refused(post(client, data={"seed": "1"}), "bad_request")
