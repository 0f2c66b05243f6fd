from __future__ import annotations

from s2v_ray.puppets.sentences import make_sentences


def test_sentences_differ() -> None:
    sentences = make_sentences(200, 1)
    assert len(set(sentences)) == 200
    assert sentences[:20] == make_sentences(20, 1)
    assert sentences[:20] != make_sentences(20, 2)


def test_sentences_are_short_and_begin_with_a_capital() -> None:
    for sentence in make_sentences(200, 0):
        assert 3 <= len(sentence.split()) <= 13
        assert sentence[0].isupper()
