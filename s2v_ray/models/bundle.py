"""A bundle: what is served and handed on. Weights, the recipe they were trained with, and a card that says what they are.

    BUNDLE/manifest.json               kind "bundle"; names the card and its SHA-256; written last
    BUNDLE/card-<sha>.json             what the bundle is, for people and programs; names the weights and their SHA-256
    BUNDLE/model-<sha>.safetensors     every parameter and buffer

Card and weights are named by their content, and the manifest is replaced in one go. So a save that fails half-way leaves
the bundle that was there before untouched, and a reader never sees the card of one bundle with the weights of another.
"""

from __future__ import annotations

import contextlib
import json
from typing import Any, Literal, overload

import safetensors.torch
import torch
from safetensors import SafetensorError

from s2v_ray import storage
from s2v_ray.config import Recipe, RecipeError, parse_recipe
from s2v_ray.models.generator import Speech2Video
from s2v_ray.models.student import Student
from s2v_ray.storage import ArtifactError

BUNDLE_SCHEMA = 1

Kind = Literal["student", "speech2video"]

NOTICE = "synthetic: video made with this bundle shows no real event; whoever publishes it must say so, and must keep the tag in the file's metadata"
INTENDED_USE = (
    "Research on speech, identity and emotion in talking-face video; animation of consenting people and of drawn characters; "
    "comparison with other methods. The input is speech that its user has the right to use."
)
MISUSE = (
    "Not for showing a real person saying what they did not say, nor for impersonation, fraud, harassment or disinformation.",
    "Not for finding out who somebody is from their voice or face, nor for judging a person's emotion, character or origin.",
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
) -> None:
    """Writes ``model`` as a bundle; one that is there already stays as it was until the new one is complete.

    Args:
        lineage: role -> digest of every artifact the model was made from (corpus, teachers, student, ...).
        metrics: what is known of its quality, as plain JSON values.

    Raises:
        ValueError: ``model`` is not of ``kind``.
        ArtifactError: the target cannot be written.
    """
    if not isinstance(model, _class_of(kind)):
        raise ValueError(f"a {kind} bundle holds a {_class_of(kind).__name__}, not a {type(model).__name__}")
    data = safetensors.torch.save(
        {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    )
    sha = storage.sha256(data)
    weights = {"file": f"model-{sha[:12]}.safetensors", "sha256": sha, "bytes": len(data)}
    student = model.student if isinstance(model, Speech2Video) else model
    card = {
        "kind": kind,
        "notice": NOTICE,
        "intended_use": INTENDED_USE,
        "misuse": list(MISUSE),
        "risks": list(RISKS),
        "identity_dim": student.identity_dim,
        "emotions": list(student.emotions),
        "reference": isinstance(model, Speech2Video) and model.reference,
        "parameters": sum(p.numel() for p in model.parameters()),
        "sha256": sha,  # of the weights: what other artifacts name this bundle by
        "weights": weights,
        "lineage": lineage,
        "metrics": metrics,
        "recipe": recipe.model_dump(mode="json"),
        "config_digest": recipe.digest(),
    }
    text = (json.dumps(card, indent=2, sort_keys=True) + "\n").encode()
    card_sha = storage.sha256(text)
    pointer = {"file": f"card-{card_sha[:12]}.json", "sha256": card_sha}
    earlier = _files(uri)
    try:
        storage.write_bytes(storage.join(uri, str(weights["file"])), data)
        storage.write_bytes(storage.join(uri, pointer["file"]), text)
        storage.write_manifest(
            uri,
            "bundle",
            BUNDLE_SCHEMA,
            holds=kind,
            card=pointer,
            digest=card_sha[:16],
            config_digest=recipe.digest(),
            parents=lineage,
        )
    except OSError as e:
        raise ArtifactError(f"cannot write the bundle {uri}: {e.strerror or e}") from e
    for name in earlier - {pointer["file"], weights["file"]}:
        with contextlib.suppress(OSError):  # the new bundle stands; what is left of the old one is only litter
            storage.remove(storage.join(uri, name))


def read_card(uri: str, kind: Kind | None = None) -> dict[str, Any]:
    """The checked card of a bundle, without its weights.

    Raises:
        ArtifactError: there is no bundle, or it is of another kind or schema, or its card is missing or damaged.
    """
    manifest = storage.read_manifest(uri, "bundle", BUNDLE_SCHEMA)
    try:
        pointer = manifest["card"]
        card: dict[str, Any] = json.loads(_read_checked(uri, "card", pointer["file"], pointer["sha256"]))
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
    """Reads a bundle: the model, on the CPU and in evaluation mode, and its card.

    The caller's random state is left as it was.

    Raises:
        ArtifactError: as ``read_card``; or the weights are missing, damaged, or do not fit the recipe of the card.
    """
    card = read_card(uri, kind)
    try:
        recipe = parse_recipe(card["recipe"], f"the recipe of the bundle {uri}")
    except RecipeError as e:
        raise ArtifactError(f"{e}; the bundle was made by another version of s2v_ray") from e
    data = _read_checked(uri, "weights", card["weights"]["file"], card["weights"]["sha256"])
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
    """A freshly initialised model of ``kind``."""
    return (
        Student(recipe.student, identity_dim, emotions)
        if kind == "student"
        else Speech2Video(recipe, identity_dim, emotions)
    )


def _class_of(kind: Kind) -> type[Student] | type[Speech2Video]:
    return Student if kind == "student" else Speech2Video


def _read_checked(uri: str, what: str, name: str, sha256: str) -> bytes:
    """One file of the bundle, refused if it is not the file it should be."""
    try:
        data = storage.read_bytes(storage.join(uri, name))
    except FileNotFoundError:
        raise ArtifactError(f"the bundle {uri} is incomplete: its {what} {name} is missing") from None
    if storage.sha256(data) != sha256:
        raise ArtifactError(
            f"the {what} of the bundle {uri} is damaged: the SHA-256 of {name} is not the recorded one; copy the bundle again"
        )
    return data


def _files(uri: str) -> set[str]:
    """Names of the files of the bundle at ``uri``; none where there is no sound one."""
    try:
        return {storage.read_manifest(uri, "bundle", BUNDLE_SCHEMA)["card"]["file"], read_card(uri)["weights"]["file"]}
    except (ArtifactError, KeyError, TypeError):
        return set()
