"""Bundles: a model for serving and distribution, with its recipe and a card.

    BUNDLE/manifest.json               kind "bundle"; name and SHA-256 of the card; written last
    BUNDLE/card-<sha>.json             description of the bundle; name and SHA-256 of the weights
    BUNDLE/model-<sha>.safetensors     all parameters and buffers

Card and weights are named by their content, and the manifest is replaced atomically. So a save that fails leaves an
earlier bundle unchanged, and a reader never gets the card of one bundle with the weights of another.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass
from typing import Any, Literal, overload

import safetensors.torch
import torch
from safetensors import SafetensorError

from s2v_ray import storage
from s2v_ray.config import Recipe, RecipeError, parse_recipe
from s2v_ray.models.speech2video import Speech2Video
from s2v_ray.models.student import Student
from s2v_ray.storage import ArtifactError

BUNDLE_SCHEMA = 4

Kind = Literal["student", "speech2video"]

NOTICE = (
    "synthetic: video made with this bundle shows no real event; publishers must state this, "
    "and must keep the tag in the file's metadata"
)
INTENDED_USE = (
    "Research on speech, identity and emotion in talking-face video; animation of consenting people and of drawn "
    "characters; comparison with other methods. The input is speech that its user has the right to use."
)
MISUSE = (
    "Not for showing real people saying what they did not say.",
    "Not for impersonation, fraud, harassment or disinformation.",
    "Not for identifying people by their voice or face, nor for assessing a person's emotion, character or origin.",
    "A face drawn from a voice is a guess in the style of the training corpus, not a likeness and not evidence.",
)
RISKS = (
    "The codes of identity and emotion inherit the biases of the teachers and of the corpus.",
    "Quality is worse for voices, languages and faces that are rare in the corpus.",
    "Faces of the training corpus can be recognisable in what is generated.",
)


def save_bundle(
    uri: str,
    model: Student | Speech2Video,
    recipe: Recipe,
    kind: Kind,
    lineage: dict[str, Any],
    metrics: dict[str, Any],
    corpus: dict[str, Any] | None = None,
) -> None:
    """Writes a bundle; an existing one is readable until the new one is complete.

    Args:
        uri: folder of the bundle.
        model: to write.
        recipe: that it was trained with.
        kind: of the model.
        lineage: role -> digest of every artifact that the model was made from (corpus, teachers, student, ...).
        metrics: its figures, as plain JSON values.
        corpus: its description (``provenance.describe_corpus``).

    Raises:
        ValueError: ``model`` is not of ``kind``.
        ArtifactError: the bundle cannot be written.
    """
    if not isinstance(model, _class_of(kind)):
        raise ValueError(f"a {kind} bundle holds a {_class_of(kind).__name__}, not a {type(model).__name__}")
    data = safetensors.torch.save(
        {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    )
    sha = storage.sha256(data)
    weights = _FileReference(f"model-{sha[:12]}.safetensors", sha)
    card = _make_card(model, recipe, kind, lineage, metrics) | {
        "corpus": corpus or {},
        "sha256": sha,  # of the weights; other artifacts refer to this bundle by it
        "weights": {**asdict(weights), "bytes": len(data)},
    }
    text = (json.dumps(card, indent=2, sort_keys=True) + "\n").encode()
    card_sha = storage.sha256(text)
    card_file = _FileReference(f"card-{card_sha[:12]}.json", card_sha)
    earlier = _files(uri)
    try:
        storage.write_bytes(storage.join(uri, weights.file), data)
        storage.write_bytes(storage.join(uri, card_file.file), text)
        storage.write_manifest(
            uri,
            "bundle",
            BUNDLE_SCHEMA,
            holds=kind,
            card=asdict(card_file),
            digest=card_sha[:16],
            config_digest=recipe.digest(),
            parents=lineage,
        )
    except OSError as e:
        raise ArtifactError(f"cannot write the bundle {uri}: {e.strerror or e}") from e
    for name in earlier - {card_file.file, weights.file}:
        with contextlib.suppress(OSError):  # the new bundle is complete, so files of the old one do no harm
            storage.remove(storage.join(uri, name))


@dataclass(frozen=True)
class _FileReference:
    """Name and SHA-256 of a file of a bundle."""

    file: str
    sha256: str


def _make_card(
    model: Student | Speech2Video, recipe: Recipe, kind: Kind, lineage: dict[str, Any], metrics: dict[str, Any]
) -> dict[str, Any]:
    """Returns the card without the entries about the file of the weights."""
    student = model.student if isinstance(model, Speech2Video) else model
    return {
        "kind": kind,
        "notice": NOTICE,
        "intended_use": INTENDED_USE,
        "misuse": list(MISUSE),
        "risks": list(RISKS),
        "identity_dim": student.identity_dim,
        "emotions": list(student.emotions),
        "reference": isinstance(model, Speech2Video) and model.reference,
        "parameters": sum(p.numel() for p in model.parameters()),
        "lineage": lineage,
        "metrics": metrics,
        "recipe": recipe.model_dump(mode="json"),
        "config_digest": recipe.digest(),
    }


def read_card(uri: str, kind: Kind | None = None) -> dict[str, Any]:
    """Reads and checks the card of a bundle.

    Raises:
        ArtifactError: there is no bundle, it is of another kind or schema, or its card is missing or damaged.
    """
    manifest = storage.read_manifest(uri, "bundle", BUNDLE_SCHEMA)
    try:
        file = _FileReference(**manifest["card"])
        card: dict[str, Any] = json.loads(_read_checked(uri, "card", file))
        found = card["kind"]
    except (KeyError, TypeError, json.JSONDecodeError) as e:
        raise ArtifactError(f"the manifest or card of the bundle {uri} is damaged: {e}") from e
    if kind is not None and found != kind:
        raise ArtifactError(f"{uri} is a {found} bundle, a {kind} bundle is needed")
    return card


@overload
def load_bundle(uri: str, kind: Literal["student"]) -> tuple[Student, dict[str, Any]]: ...
@overload
def load_bundle(uri: str, kind: Literal["speech2video"]) -> tuple[Speech2Video, dict[str, Any]]: ...
def load_bundle(uri: str, kind: Kind) -> tuple[Student | Speech2Video, dict[str, Any]]:
    """Loads a bundle. The random state of torch does not change.

    Returns:
        the model, on the CPU and in evaluation mode; and its card.

    Raises:
        ArtifactError: as ``read_card``; or the weights are missing, damaged, or do not fit the recipe of the card.
    """
    card = read_card(uri, kind)
    try:
        recipe = parse_recipe(card["recipe"], f"the recipe of the bundle {uri}")
    except RecipeError as e:
        raise ArtifactError(f"{e}; the bundle was made by another version of s2v_ray") from e
    weights = _FileReference(card["weights"]["file"], card["weights"]["sha256"])
    data = _read_checked(uri, "weights", weights)
    with torch.random.fork_rng(devices=[]):
        model = build(kind, recipe, card["identity_dim"], tuple(card["emotions"]))
    try:
        model.load_state_dict(safetensors.torch.load(data))
    except (SafetensorError, RuntimeError) as e:
        reason = str(e).splitlines()[-1].strip()
        raise ArtifactError(
            f"the weights of the bundle {uri} do not fit its recipe (made by another version of s2v_ray?): {reason}"
        ) from e
    return model.eval(), card


def build(kind: Kind, recipe: Recipe, identity_dim: int, emotions: tuple[str, ...]) -> Student | Speech2Video:
    """Returns a newly initialised model of ``kind``."""
    if kind == "student":
        return Student(recipe.student, identity_dim, emotions)
    return Speech2Video(recipe, identity_dim, emotions)


def _class_of(kind: Kind) -> type[Student] | type[Speech2Video]:
    return Student if kind == "student" else Speech2Video


def _read_checked(uri: str, what: str, file: _FileReference) -> bytes:
    """Reads a file of the bundle and checks its SHA-256."""
    try:
        data = storage.read_bytes(storage.join(uri, file.file))
    except FileNotFoundError:
        raise ArtifactError(f"the bundle {uri} is incomplete: its {what} {file.file} is missing") from None
    if storage.sha256(data) != file.sha256:
        raise ArtifactError(
            f"the {what} of the bundle {uri} is damaged: the SHA-256 of {file.file} is not the recorded one; "
            "copy the bundle again"
        )
    return data


def _files(uri: str) -> set[str]:
    """Returns the names of the files of the bundle at ``uri``; none if there is no valid one."""
    try:
        return {storage.read_manifest(uri, "bundle", BUNDLE_SCHEMA)["card"]["file"], read_card(uri)["weights"]["file"]}
    except (ArtifactError, KeyError, TypeError):
        return set()
