"""The design of the study: clips in every condition, and seeded orders of trials."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from s2v_ray import shards, storage
from s2v_ray.evaluation.takes import CorpusTakes
from s2v_ray.evaluation.user_study import (
    DEGRADED,
    REAL,
    REFERENCE_OTHER,
    SPEECH,
    StudyDesign,
    clip_uri,
    make_study,
    read_plan,
    trials_of,
)
from s2v_ray.inference.predictor import Predictor
from s2v_ray.inference.request import GenerationRequest
from tests.helpers.bundles import make_bundle
from tests.helpers.evaluated import FRAMES, make_clip, write_corpus
from tests.helpers.studies import make_small_study

PARTICIPANT = "0123456789abcdef" * 2


def test_the_order_depends_on_the_participant_only(tmp_path: Path) -> None:
    plan = read_plan(make_small_study(tmp_path))
    trials = trials_of(plan, PARTICIPANT)
    assert trials == trials_of(read_plan(str(tmp_path)), PARTICIPANT)
    assert trials != trials_of(plan, "f" * 32)
    assert [t.trial for t in trials] == list(range(17))


def test_every_comparison_occurs_equally_often(tmp_path: Path) -> None:
    trials = trials_of(read_plan(make_small_study(tmp_path)), PARTICIPANT)
    pairs = [sorted(t.clips) for t in trials if t.kind == "pair"]
    assert sorted(pairs) == sorted(
        [sorted(p) for p in ((REAL, REFERENCE_OTHER), (REAL, SPEECH), (REFERENCE_OTHER, SPEECH))] * 3
    )
    singles = [t.clips for t in trials if t.kind == "emotion"]
    assert sorted(singles) == sorted([(REAL,), (REFERENCE_OTHER,), (SPEECH,)] * 2)


def test_sides_and_items_are_balanced(tmp_path: Path) -> None:
    plan = read_plan(make_small_study(tmp_path))
    begins = []
    for n in range(40):
        trials = trials_of(plan, f"{n:032x}")
        firsts = [t.clips[0] for t in trials if set(t.clips) == {REAL, SPEECH}]
        assert len(firsts) == 3
        assert firsts.count(REAL) in (1, 2)
        begins.append(firsts.count(REAL))
        for kind, repeated in (("pair", 2), ("emotion", 1)):
            times = [[t.item for t in trials if t.kind == kind].count(i) for i in range(6)]
            assert max(times) == repeated and min(times) >= repeated - 1
    assert 10 < begins.count(1) < 30, "which condition is on the left more often is random"


def test_attention_checks_compare_a_real_clip_with_its_degraded_copy(tmp_path: Path) -> None:
    checks = [t for t in trials_of(read_plan(make_small_study(tmp_path)), PARTICIPANT) if t.kind == "check"]
    assert [set(t.clips) for t in checks] == [{REAL, DEGRADED}] * 2
    assert checks[0].clips[0] != checks[1].clips[0]


def test_a_missing_study_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(storage.ArtifactError):
        read_plan(str(tmp_path))


def test_clips_of_a_study_are_made(corpus: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    reference = make_bundle(tmp_path / "reference", "gan.generator.reference=true")
    uri = str(tmp_path / "study")
    with caplog.at_level(logging.INFO, logger="s2v_ray"):
        manifest = make_study(
            corpus, uri, bundle, reference, StudyDesign(clips=2, pairs=3, singles=4, checks=1, seed=5)
        )
    assert caplog.messages[-1] == "study: 2 of 2 clips"
    assert [manifest[name] for name in ("seed", "pairs", "singles", "checks")] == [5, 3, 4, 1]
    assert manifest["parents"].keys() == {"corpus", SPEECH, REFERENCE_OTHER}
    plan = read_plan(uri)
    assert len(plan.items) == 2
    for item in plan.items:
        assert item.clips.keys() == {REAL, DEGRADED, REFERENCE_OTHER, SPEECH}
        detail = {}
        for condition, name in item.clips.items():
            with av.open(clip_uri(uri, name)) as container:
                generated = condition in (REFERENCE_OTHER, SPEECH)
                assert ("synthetic" in container.metadata.get("comment", "")) == generated
                frames = [frame.to_ndarray(format="gray").astype(int) for frame in container.decode(video=0)]
            assert len(frames) == FRAMES
            detail[condition] = np.mean([np.abs(np.diff(frame)).max() for frame in frames])
        assert detail[DEGRADED] < 0.5 * detail[REAL]
    with pytest.raises(storage.ArtifactError, match="there is a study"):
        make_study(corpus, uri, bundle)


def test_bundles_of_the_wrong_kind_are_refused(corpus: str, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    with pytest.raises(ValueError, match="--reference-bundle one that was trained with a still"):
        make_study(corpus, str(tmp_path / "study"), bundle, bundle)


def test_the_baseline_gets_the_still_of_another_take(
    corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stills: list[np.ndarray] = []
    generate = Predictor.generate

    def record(self: Predictor, request: GenerationRequest) -> Iterator[np.ndarray]:
        if request.still is not None:
            stills.append(request.still)
        return generate(self, request)

    monkeypatch.setattr(Predictor, "generate", record)
    reference = make_bundle(tmp_path / "reference", "gan.generator.reference=true")
    uri, design = str(tmp_path / "study"), StudyDesign(clips=1, seed=5)
    make_study(corpus, uri, make_bundle(tmp_path / "bundle"), reference, design)
    (item,), (still,) = read_plan(uri).items, stills
    (clip,) = (clip for clip in shards.read_clips(corpus, "test") if clip.id == item.clip)
    (other,) = CorpusTakes(corpus, 5).of(clip, 1)
    assert other.id != clip.id and other.speaker == clip.speaker
    assert np.array_equal(still, other.frames[0])


def test_without_another_take_there_is_no_still(tmp_path: Path) -> None:
    alone = write_corpus(tmp_path / "alone", [make_clip(0, 1, 0)], [make_clip(1, 0, 0)])
    bundle = make_bundle(tmp_path / "bundle")
    reference = make_bundle(tmp_path / "reference", "gan.generator.reference=true")
    with pytest.raises(ValueError, match="no clip of the split test of .* has another take"):
        make_study(alone, str(tmp_path / "study"), bundle, reference, StudyDesign(clips=1))
    made = make_study(alone, str(tmp_path / "study"), bundle, None, StudyDesign(clips=1))
    assert len(made["items"]) == 1
