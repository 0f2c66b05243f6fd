"""English sentences for the puppets, made of random parts."""

from __future__ import annotations

import numpy as np

_SUBJECTS = (
    "my brother", "the old captain", "our neighbour", "a clever fox", "her best friend", "the baker", "your teacher",
    "the little robot", "that funny uncle", "the mayor", "a famous painter", "my grandmother", "the young pilot",
    "every farmer", "a shy giraffe", "the whole village",
)  # fmt: skip
_VERBS = (
    "found", "painted", "bought", "carried", "followed", "borrowed", "polished", "hid", "ate", "made", "washed",
    "loves", "wants", "forgot", "saw", "fixed",
)  # fmt: skip
_OBJECTS = (
    "a purple fish", "five warm apples", "the broken violin", "some fresh bread", "a very big map", "the wooden boat",
    "two yellow umbrellas", "a bowl of soup", "the missing key", "my favourite hat", "an enormous pumpkin",
    "the fastest bike", "seven smooth pebbles", "a photo of you", "the mouse in the box", "a pair of shoes",
)  # fmt: skip
_PLACES = (
    "in the garden", "before lunch", "at the market", "on Monday", "near the bridge", "for the party", "by the river",
    "after the show", "in a hurry", "above the shop", "with both hands", "this evening", "under the moon",
    "from the museum", "at half past four", "over there",
)  # fmt: skip
_MAX_LENGTH = 34  # of a sentence to which a place is added; sad speakers take a third longer


def make_sentences(count: int, seed: int) -> list[str]:
    """Returns ``count`` different sentences of about 2 s.

    Parts are used in turn in random order, so that any dozen of sentences contains most words.
    """
    rng = np.random.default_rng([seed, 2])
    found: dict[str, None] = {}
    while len(found) < count:
        orders = [rng.permutation(len(words)) for words in (_SUBJECTS, _VERBS, _OBJECTS, _PLACES)]
        for s, v, o, p in zip(*orders, strict=True):
            words = f"{_SUBJECTS[s]} {_VERBS[v]} {_OBJECTS[o]}"
            found.setdefault((words if len(words) > _MAX_LENGTH else f"{words} {_PLACES[p]}").capitalize(), None)
    return list(found)[:count]
