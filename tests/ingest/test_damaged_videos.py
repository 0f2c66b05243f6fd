"""The kinds of ``tests/faults/damaged_videos.py``, once each, through all stages, without a cluster."""

from __future__ import annotations

from pathlib import Path

from s2v_ray.ingest.crop import Process
from s2v_ray.ingest.rejects import Reason, Reject
from s2v_ray.ingest.sources import list_clips
from tests.faults.damaged_videos import KINDS, RECIPE, make


def test_each_is_used_or_rejected_with_a_reason(tmp_path: Path) -> None:
    kinds = make(tmp_path / "videos", len(KINDS), seed=0)
    _, clips = list_clips(str(tmp_path / "videos"))
    assert {c.name for c in clips} == set(kinds)
    ends: dict[str, Reason | None] = {}
    for clip in clips:
        try:
            assert Process(RECIPE).process(clip)
            ends[kinds[clip.name]] = None
        except Reject as e:
            assert e.detail
            ends[kinds[clip.name]] = e.reason
    used = {kind for kind, reason in ends.items() if reason is None}
    assert {"sound", "wrong extension", "1 fps", "120 fps", "variable rate", "1 s"} <= used, ends
    assert ends["no sound"] == Reason.NO_SOUND
    assert ends["zero length"] == ends["not a video"] == Reason.UNREADABLE
    assert None not in (ends["8K header"], ends["cut"]), ends
