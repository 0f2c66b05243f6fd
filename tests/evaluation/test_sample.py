from __future__ import annotations

import pytest

from s2v_ray import storage
from s2v_ray.evaluation.sample import choose_balanced, read_labels, read_sample, read_speech_sample


def test_the_choice_is_even_and_seeded() -> None:
    speakers = [f"s{i // 40}" for i in range(160)]
    emotions = [f"e{i % 4}" if i % 40 < 8 else "neutral" for i in range(160)]
    chosen = choose_balanced(speakers, emotions, 20, seed=1)
    assert len(set(chosen)) == 20
    assert chosen == choose_balanced(speakers, emotions, 20, seed=1)
    assert chosen != choose_balanced(speakers, emotions, 20, seed=2)
    assert [sum(speakers[i] == s for i in chosen) for s in sorted(set(speakers))] == [5] * 4
    assert all(3 <= sum(emotions[i] == e for i in chosen) <= 5 for e in set(emotions))


def test_all_clips_are_chosen_if_there_are_too_few() -> None:
    assert choose_balanced(["a", "b", "a"], ["", "", ""], 999, seed=0) == [0, 1, 2]


def test_only_chosen_clips_are_decoded(corpus: str) -> None:
    clips = read_sample(corpus, "test", 6, seed=0)
    assert sorted(c.speaker for c in clips) == ["ann"] * 3 + ["bob"] * 3
    assert [c.id for c in read_speech_sample(corpus, "test", 6, seed=0)] == [c.id for c in clips]
    assert len(read_labels(corpus, "test")) == 12


def test_an_empty_split_is_an_error(corpus: str) -> None:
    with pytest.raises(storage.ArtifactError, match="no clips"):
        read_sample(corpus, "val", 6, seed=0)
