from __future__ import annotations

from s2v_ray.ingest.rejects import Reason, Reject


def test_the_values_that_are_stored_in_corpora() -> None:
    assert [reason.value for reason in Reason] == [
        "unreadable",
        "no_sound",
        "no_picture",
        "no_face",
        "several_faces",
        "small_face",
        "truncated",
        "too_short",
        "out_of_range",
        "duplicate",
        "blurred",
        "turned",
        "little_speech",
        "out_of_sync",
    ]


def test_a_reject_has_a_reason_and_a_detail() -> None:
    reject = Reject(Reason.NO_FACE, "a face in 1 of 9 inspected frames")
    assert (reject.reason, reject.detail) == (Reason.NO_FACE, "a face in 1 of 9 inspected frames")
    assert str(reject) == "no_face: a face in 1 of 9 inspected frames"
