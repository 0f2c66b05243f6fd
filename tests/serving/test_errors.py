from __future__ import annotations

from s2v_ray.serving.errors import CODES, ApiError, describe_errors, not_ready


def test_an_error_has_a_status_a_code_and_a_message() -> None:
    error = ApiError("busy", "try again", retry_after=2)
    assert error.status_code == 503
    assert error.headers == {"Retry-After": "2"}
    assert error.body() == {"error": {"code": "busy", "message": "try again"}}
    assert ApiError("unauthorized", "send the token").headers == {"WWW-Authenticate": "Bearer"}


def test_an_endpoint_that_loads_says_when_to_try_again() -> None:
    assert (not_ready().code, not_ready().headers) == ("not_ready", {"Retry-After": "5"})


def test_codes_have_a_status_and_a_meaning() -> None:
    assert all(400 <= code.status < 600 and code.meaning for code in CODES.values())


def test_descriptions_name_all_codes_of_a_status() -> None:
    described = describe_errors(404, 503)
    assert described.keys() == {404, 503}
    for name in ("not_found", "unknown_model", "unknown_video"):
        assert f"`{name}`: {CODES[name].meaning}" in described[404]["description"]
    assert "`busy`" in described[503]["description"]
    assert "`busy`" not in described[404]["description"]
