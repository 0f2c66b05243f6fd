"""Cards of face networks: preprocessing of their input, meaning of their output, and the SHA-256 of their weights."""

from __future__ import annotations

import functools
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from s2v_ray import storage
from s2v_ray.config import Positive, Section, digest

CARD = "card.yaml"
"""Name of the card in a network's folder."""
ROLES = ("identity", "emotion", "mouth", "landmarks")
"""Roles of face networks."""
_ARCFACE_SIZES = ((112, 112), (112, 96))


class Card(Section):
    """Description of a face network, sufficient to run it on aligned crops."""

    kind: Literal["onnx", "conv"]
    role: Literal["identity", "emotion", "mouth", "landmarks"]
    title: str = Field("", description="What it is.")
    weights: str = Field(description="File beside the card (or in the folder of weights), or a URI.")
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="Of the weights; checked whenever they are read.")
    input: str = Field("face", description="Name of the input (onnx).")
    height: Positive
    width: Positive
    colour: Literal["rgb", "bgr", "grey"] = "rgb"
    mean: tuple[float, ...] = Field(
        (0.0,), description="Input is (x - mean) / scale with x in 0..255; one value, or one per channel."
    )
    scale: tuple[float, ...] = (1.0,)
    alignment: Literal["arcface", "box"] = Field(
        description="arcface: five points onto the ArcFace template. box: a square box around the face."
    )
    box: tuple[float, float, float] = Field(
        (0.0, 0.0, 1.0), description="Left, top and side of the box, in sides of the crop (alignment box)."
    )
    output: str = Field("", description="Name of the output (onnx).")
    dim: Positive = Field(
        description="Size of the output for one face; of landmarks 2 P: x and y of P points, shares of the input's "
        "width and height."
    )
    labels: tuple[str, ...] = Field((), description="Names of the logits, in order (emotion).")
    eyelids: tuple[tuple[int, int], ...] = Field(
        (),
        description="Indices of upper and lower eyelid, pair by pair (landmarks); none if they do not follow a blink.",
    )
    lips: tuple[tuple[int, int], ...] = Field(
        (), description="Indices of upper and lower inner lip, pair by pair (landmarks)."
    )
    channels: int = Field(0, ge=0, description="Channels of the first layer (conv).")
    licence: str = ""
    source: str = ""
    notes: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> Card:
        if self.role == "emotion" and len(self.labels) != self.dim:
            raise ValueError(
                f"labels: an emotion network needs one label for each of its {self.dim} logits, not {len(self.labels)}"
            )
        if self.role == "landmarks":
            used = [index for pair in (*self.eyelids, *self.lips) for index in pair]
            if self.dim % 2 or not self.lips or not all(0 <= i < self.dim // 2 for i in used):
                raise ValueError(
                    "eyelids, lips: a landmark network needs pairs of lips, and indices below dim / 2, its points"
                )
        if self.kind == "conv" and not self.channels:
            raise ValueError("channels: a conv network needs the channels of its first layer")
        if self.alignment == "arcface" and (self.height, self.width) not in _ARCFACE_SIZES:
            raise ValueError(
                f"height, width: arcface alignment is for 112 x 112 or 112 x 96, not {self.height} x {self.width}"
            )
        allowed = (1, 1 if self.colour == "grey" else 3)
        for name, values in (("mean", self.mean), ("scale", self.scale)):
            if len(values) not in allowed:
                raise ValueError(f"{name}: one value, or one for each channel, not {len(values)}")
        if 0.0 in self.scale or self.box[2] <= 0:
            raise ValueError("scale must not be 0, and the box must have a positive side")
        return self

    def digest(self) -> str:
        """Returns a digest of everything that the outputs depend on, but not of where the weights are stored."""
        return digest(self.model_dump(mode="json", exclude={"weights", "title", "licence", "source", "notes"}))


def built_in_cards() -> list[str]:
    """Returns the names of the cards in the package."""
    return sorted(p.name.removesuffix(".yaml") for p in _folder().iterdir() if p.name.endswith(".yaml"))


def read_card(name_or_uri: str) -> Card:
    """Reads a card: a built-in name, or the URI of a YAML file.

    Raises:
        ArtifactError: there is none, or it is not a valid card.
    """
    try:
        if name_or_uri in built_in_cards():
            text = (_folder() / f"{name_or_uri}.yaml").read_text()
        else:
            text = storage.read_bytes(name_or_uri).decode()
    except (FileNotFoundError, UnicodeDecodeError):
        raise storage.ArtifactError(
            f"there is no card {name_or_uri}; built-in cards: {', '.join(built_in_cards())}"
        ) from None
    try:
        return Card.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as e:
        raise storage.ArtifactError(f"card {name_or_uri} is not valid YAML: {e}") from e
    except ValidationError as e:
        problems = "; ".join(
            f"{'.'.join(str(p) for p in error['loc'])}: {error['msg']}".removeprefix(": ") for error in e.errors()
        )
        raise storage.ArtifactError(f"card {name_or_uri} cannot be used: {problems}") from e


def write_card(card: Card, folder_uri: str) -> None:
    """Writes a card into a network's folder, and removes the weights of an earlier network there."""
    text = yaml.safe_dump(card.model_dump(mode="json"), sort_keys=False, width=160)
    storage.write_bytes(storage.join(folder_uri, CARD), text.encode())
    for stale in storage.list_files(folder_uri, ".safetensors"):
        if stale.rpartition("/")[2] != card.weights:
            storage.remove(stale)


@functools.cache
def _folder() -> Traversable:
    return resources.files("s2v_ray.models") / "cards"
