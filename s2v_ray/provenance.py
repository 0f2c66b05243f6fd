"""What is known of the data behind a model: the bundle keeps it, and the cards state it."""

from __future__ import annotations

from typing import Any

from s2v_ray import shards, storage
from s2v_ray.models.face_card import CARD, read_card

UNKNOWN = "not stated"
ROLES = ("identity", "emotion")


def describe_corpus(corpus: str) -> dict[str, Any]:
    """Collect what the cards state of a corpus.

    Args:
        corpus: URI of a corpus, with or without teachers.

    Returns:
        ``layout`` of the source, ``licence``, ``size`` (side of a frame, pixels), ``speakers`` (number), ``emotions``,
        ``splits`` (name to number of ``clips`` and ``frames``), ``rejects`` (reason to number of files) and
        ``teachers`` (role to ``title``, ``licence`` and ``source``). No URI: it may be private.

    Raises:
        ArtifactError: there is no corpus, or the card of a teacher is damaged.
    """
    manifest = shards.read_corpus_manifest(corpus)
    teachers = {}
    for role in ROLES:
        uri = storage.join(corpus, "teachers", role, CARD)
        if storage.exists(uri):
            card = read_card(uri)
            teachers[role] = {"title": card.title or UNKNOWN, "licence": card.licence, "source": card.source}
    return {
        "layout": manifest.get("source", {}).get("layout", UNKNOWN),
        "licence": manifest.get("licence", ""),
        "size": manifest.get("size"),
        "speakers": len(manifest.get("speakers", [])),
        "emotions": list(manifest.get("emotions", [])),
        "splits": {
            name: {key: counts[key] for key in ("clips", "frames") if key in counts}
            for name, counts in manifest.get("splits", {}).items()
        },
        "rejects": dict(manifest.get("rejects", {})),
        "teachers": teachers,
    }
