"""Networks that look at faces, behind one interface: teachers (frozen, distilled from) and judges (evaluation only).

A network is a folder with ``card.yaml``: how to cut its input out of our aligned crops, what comes out, and the SHA-256
of its weights. Two kinds: ``onnx``, any pretrained network by URI, run by onnxruntime; ``conv``, a small one that
``training.teach`` made, with its safetensors beside the card.

Our crops are aligned to ``media.face.TEMPLATE``, so the way from a crop to any network's input is one fixed affine map.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib import resources
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from pydantic import Field, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from s2v_ray import storage
from s2v_ray.config import Positive, Section, digest
from s2v_ray.media.face import TEMPLATE, similarity

CARD = "card.yaml"
ROLES = ("identity", "emotion", "mouth")
ARCFACE = np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]])
"""The ArcFace template: five landmarks in pixels of a 112 x 112 picture; in the 112 x 96 variant x is 8 less (Deng et al. 2019)."""
LUMA = (0.299, 0.587, 0.114)
CHUNK = 64
"""Faces computed at once: bounds the memory whatever the number of frames."""


class Card(Section):
    """What must be known of a network to run it on our crops."""

    kind: Literal["onnx", "conv"]
    role: Literal["identity", "emotion", "mouth"]
    title: str = Field("", description="What it is, for people.")
    weights: str = Field(description="File beside the card (or in the folder of weights), or a URI.")
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="Of the weights; checked whenever they are read.")
    input: str = Field("face", description="Name of the input (onnx).")
    height: Positive
    width: Positive
    colour: Literal["rgb", "bgr", "grey"] = "rgb"
    mean: tuple[float, ...] = Field(
        (0.0,), description="Input is (x - mean) / scale with x in 0..255; one value, or one a channel."
    )
    scale: tuple[float, ...] = (1.0,)
    alignment: Literal["arcface", "box"] = Field(
        description="arcface: five points onto the ArcFace template. box: a square box around the face."
    )
    box: tuple[float, float, float] = Field(
        (0.0, 0.0, 1.0), description="Left, top and side of the box, in sides of our crop (alignment box)."
    )
    output: str = Field("", description="Name of the output (onnx).")
    dim: Positive = Field(description="Numbers that come out for one face.")
    labels: tuple[str, ...] = Field((), description="Names of the logits, in order (emotion).")
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
        if self.kind == "conv" and not self.channels:
            raise ValueError("channels: a conv network needs the channels of its first layer")
        if self.alignment == "arcface" and (self.height, self.width) not in ((112, 112), (112, 96)):
            raise ValueError(
                f"height, width: arcface alignment is for 112 x 112 or 112 x 96, not {self.height} x {self.width}"
            )
        wanted = (1, 1 if self.colour == "grey" else 3)
        for name, values in (("mean", self.mean), ("scale", self.scale)):
            if len(values) not in wanted:
                raise ValueError(f"{name}: one value, or one for each channel, not {len(values)}")
        if 0.0 in self.scale or self.box[2] <= 0:
            raise ValueError("scale must not be 0, and the box must have a positive side")
        return self

    def digest(self) -> str:
        """Of all that shapes the outputs: the same network has the same digest wherever its weights lie."""
        return digest(self.model_dump(mode="json", exclude={"weights", "title", "licence", "source", "notes"}))


class ConvFace(nn.Module):
    """A small face network: a coarse first convolution (a quarter of the side: cheap on a CPU), two strided ones, group norm, pooling, one linear layer.

    ``[N, 3, H, W]`` in about [-1, 1], H and W at least 16 -> ``[N, dim]``, raw.
    """

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        low, high = 2 * channels, 4 * channels
        self.features = nn.Sequential(
            *_block(3, low, 6, 4, 1), *_block(low, high, 3, 2, 1), *_block(high, high, 3, 2, 1)
        )
        self.head = nn.Linear(8 * channels, dim)

    def forward(self, x: Tensor) -> Tensor:
        h = self.features(x)
        return self.head(torch.cat([h.mean((2, 3)), h.amax((2, 3))], dim=1))


def _block(before: int, after: int, kernel: int, stride: int, padding: int) -> list[nn.Module]:
    groups = next(g for g in (8, 4, 2, 1) if after % g == 0)
    return [nn.Conv2d(before, after, kernel, stride, padding, bias=False), nn.GroupNorm(groups, after), nn.ReLU()]


class FaceNetwork:
    """A frozen face network on aligned crops.

    Attributes:
        card: all that is known of it.
        device: where conv networks and the cutting run; onnx networks choose by themselves.
    """

    def __init__(self, card: Card, run: Callable[[Tensor], Tensor], device: torch.device | str = "cpu") -> None:
        self.card = card
        self.device = torch.device(device)
        self._run = run

    @property
    def role(self) -> str:
        """identity, emotion or mouth."""
        return self.card.role

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the emotion logits, in order."""
        return self.card.labels

    @property
    def dim(self) -> int:
        """D, the numbers that come out for one face."""
        return self.card.dim

    @property
    def digest(self) -> str:
        """Short SHA-256 of weights and preprocessing."""
        return self.card.digest()

    @torch.inference_mode()
    def __call__(self, frames: np.ndarray | Tensor) -> Tensor:
        """uint8 ``[N, S, S, 3]``, RGB, aligned to ``TEMPLATE`` -> float32 ``[N, D]`` on the CPU.

        identity: of unit length. emotion: logits. mouth: opening in [0, 1].
        """
        faces = torch.as_tensor(frames)
        if faces.dtype != torch.uint8 or faces.ndim != 4 or faces.shape[3] != 3 or faces.shape[1] != faces.shape[2]:
            raise ValueError(f"a face network takes uint8 [N, S, S, 3], not {faces.dtype} {tuple(faces.shape)}")
        parts = [self._run(prepare(part.to(self.device), self.card)).float().cpu() for part in faces.split(CHUNK)]
        return finish(torch.cat(parts), self.card.role) if parts and len(faces) else torch.zeros(0, self.dim)


def finish(raw: Tensor, role: str) -> Tensor:
    """What a network puts out -> what its role promises."""
    if role == "identity":
        return F.normalize(raw, dim=1)
    return raw.sigmoid() if role == "mouth" else raw


def prepare(frames: Tensor, card: Card) -> Tensor:
    """uint8 ``[N, S, S, 3]`` aligned to ``TEMPLATE`` -> float32 ``[N, C, height, width]``, as the network wants it.

    Bilinear, and smoothed first where the network's picture is coarser than ours; beyond the crop its border goes on.
    """
    faces = frames.movedim(3, 1).float()
    matrix = crop_from_card(card, faces.shape[2])
    shrink = (
        float(np.sqrt(abs(np.linalg.det(matrix[:, :2])))) * faces.shape[2]
    )  # pixels of the crop under one of the card's
    if shrink > 1.0:
        side = max(round(faces.shape[2] / shrink), 1)
        faces = F.interpolate(faces, size=(side, side), mode="bilinear", antialias=True)
    if not _is_whole(matrix, card, faces.shape[2]):
        theta = torch.from_numpy(_theta(matrix, card)).float().to(faces.device)
        grid = F.affine_grid(
            theta.expand(len(faces), 2, 3), [len(faces), 3, card.height, card.width], align_corners=False
        )
        faces = F.grid_sample(faces, grid, mode="bilinear", padding_mode="border", align_corners=False)
    if card.colour == "bgr":
        faces = faces.flip(1)
    elif card.colour == "grey":
        faces = (faces * faces.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
    return (faces - faces.new_tensor(card.mean).view(1, -1, 1, 1)) / faces.new_tensor(card.scale).view(1, -1, 1, 1)


def crop_from_card(card: Card, size: int) -> np.ndarray:
    """float64 ``[2, 3]``: pixels of the network's picture -> our crop in [0, 1], y down; in both, a pixel's centre lies half a pixel inside."""
    if card.alignment == "box":
        left, top, side = card.box
        return np.array([[side / card.width, 0.0, left], [0.0, side / card.height, top]])
    points = ARCFACE - [(112 - card.width) / 2, 0.0]
    return similarity(points[None] + 0.5, TEMPLATE[None] + 0.5 / size)[
        0
    ]  # both templates have a pixel's centre at whole numbers


def load(uri: str, device: torch.device | str = "cpu") -> FaceNetwork:
    """The network in a folder with ``card.yaml``.

    Raises:
        ArtifactError: no card there, a bad card, no weights, or weights that are not those of the card.
    """
    card = read_card(storage.join(uri, CARD))
    return build(card, _weights(card, uri), device)


def build(card: Card, weights: bytes, device: torch.device | str = "cpu") -> FaceNetwork:
    """A network from its card and the bytes of its weights, whose SHA-256 is checked.

    Raises:
        ArtifactError: other weights than the card's, or weights that do not fit it.
    """
    _check(card, weights)
    return FaceNetwork(card, _onnx(card, weights) if card.kind == "onnx" else _conv(card, weights, device), device)


def built_in_cards() -> list[str]:
    """Names of the cards that come with the package."""
    return sorted(p.name.removesuffix(".yaml") for p in _cards().iterdir() if p.name.endswith(".yaml"))


def read_card(name_or_uri: str) -> Card:
    """A card: a built-in name, or the URI of a YAML file.

    Raises:
        ArtifactError: there is none, or it is not a card; the message says why.
    """
    try:
        text = (
            (_cards() / f"{name_or_uri}.yaml").read_text()
            if name_or_uri in built_in_cards()
            else storage.read_bytes(name_or_uri).decode()
        )
    except (FileNotFoundError, UnicodeDecodeError):
        raise storage.ArtifactError(
            f"there is no card {name_or_uri}; built-in cards: {', '.join(built_in_cards())}"
        ) from None
    try:
        return Card.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as e:
        raise storage.ArtifactError(f"card {name_or_uri} is not valid YAML: {e}") from e
    except ValidationError as e:
        what = "; ".join(
            f"{'.'.join(str(p) for p in err['loc'])}: {err['msg']}".removeprefix(": ") for err in e.errors()
        )
        raise storage.ArtifactError(f"card {name_or_uri} cannot be used: {what}") from e


def resolve_card(card: str, weights_uri: str) -> FaceNetwork:
    """The network of a card (built-in name, or URI), wherever its weights lie: a URI in the card, else a file in ``weights_uri``, else beside the card.

    Raises:
        ArtifactError: as in ``read_card`` and ``load``.
    """
    read = read_card(card)
    weights = read.weights
    if not _is_absolute(weights):
        folder = weights_uri or ("" if card in built_in_cards() else card.rpartition("/")[0] or ".")
        if not folder:
            raise storage.ArtifactError(
                f"card {card} needs weights: set teachers.weights to the folder that holds {weights}"
            )
        weights = storage.absolute(storage.join(folder, weights))
    resolved = read.model_copy(update={"weights": weights})
    return build(resolved, _weights(resolved, ""))


def install_card(card: str, weights_uri: str, folder_uri: str) -> FaceNetwork:
    """Puts a card (built-in name, or URI) into ``folder_uri``, with the resolved URI of its weights; returns the network.

    The weights stay where they are: their licence may not allow a copy. They are read, checked and built first, so that
    nothing is written for a network that does not work.

    Raises:
        ArtifactError: as in ``resolve_card``.
    """
    network = resolve_card(card, weights_uri)
    _write_card(network.card, folder_uri)
    return network


def save_conv(folder_uri: str, network: ConvFace, **card: Any) -> FaceNetwork:
    """Writes a trained network: weights first, under a name made of their content, then the card that points to them."""
    weights = save_tensors({k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()})
    sha = storage.sha256(weights)
    made = Card(kind="conv", weights=f"weights-{sha[:16]}.safetensors", sha256=sha, **card)
    storage.write_bytes(storage.join(folder_uri, made.weights), weights)
    _write_card(made, folder_uri)
    return build(made, weights)


def _write_card(card: Card, folder_uri: str) -> None:
    text = yaml.safe_dump(card.model_dump(mode="json"), sort_keys=False, width=160)
    storage.write_bytes(storage.join(folder_uri, CARD), text.encode())
    for stale in storage.list_files(folder_uri, ".safetensors"):
        if stale.rpartition("/")[2] != card.weights:
            storage.remove(stale)


def _weights(card: Card, folder_uri: str) -> bytes:
    uri = card.weights if _is_absolute(card.weights) else storage.join(folder_uri, card.weights)
    try:
        return storage.read_bytes(uri)
    except FileNotFoundError:
        raise storage.ArtifactError(f"the weights of {card.title or card.role} are not at {uri}") from None


def _is_absolute(uri: str) -> bool:
    return "://" in uri or uri.startswith("/")


def _check(card: Card, weights: bytes) -> None:
    found = storage.sha256(weights)
    if found != card.sha256:
        raise storage.ArtifactError(
            f"weights {card.weights} are not those of the card: SHA-256 {found[:16]}..., the card says {card.sha256[:16]}..."
        )


def _onnx(card: Card, weights: bytes) -> Callable[[Tensor], Tensor]:
    import onnxruntime  # slow to import, and only needed here

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    options.add_session_config_entry(
        "session.intra_op.allow_spinning", "0"
    )  # waiting threads would take the cores from other work
    providers = [
        p for p in ("CUDAExecutionProvider", "CPUExecutionProvider") if p in onnxruntime.get_available_providers()
    ]
    try:
        session = onnxruntime.InferenceSession(weights, options, providers=providers)
    except Exception as e:  # onnxruntime's own errors have no common type
        raise storage.ArtifactError(f"{card.weights} cannot be read as an ONNX network: {e}") from e
    inputs, outputs = {i.name: i.shape for i in session.get_inputs()}, {o.name: o.shape for o in session.get_outputs()}
    if card.input not in inputs or card.output not in outputs or outputs[card.output][-1] != card.dim:
        said = f"input {card.input!r}, output {card.output!r} of {card.dim}"
        raise storage.ArtifactError(
            f"card and network differ: {card.weights} has inputs {inputs} and outputs {outputs}, the card says {said}"
        )

    def run(faces: Tensor) -> Tensor:
        return torch.from_numpy(session.run([card.output], {card.input: faces.cpu().numpy()})[0])

    return run


def _conv(card: Card, weights: bytes, device: torch.device | str) -> Callable[[Tensor], Tensor]:
    network = ConvFace(card.channels, card.dim)
    try:
        network.load_state_dict(load_tensors(weights))
    except (RuntimeError, SafetensorError) as e:
        raise storage.ArtifactError(f"weights {card.weights} do not fit the card: {str(e).splitlines()[0]}") from e
    return network.to(device).eval().requires_grad_(False)


def _theta(matrix: np.ndarray, card: Card) -> np.ndarray:
    """``crop_from_card`` in the normalised coordinates ([-1, 1] over the picture) of ``affine_grid``."""
    out = np.array([[card.width / 2, 0, card.width / 2], [0, card.height / 2, card.height / 2], [0, 0, 1]])
    return np.array([[2.0, 0, -1], [0, 2.0, -1]]) @ np.vstack([matrix @ out, [0, 0, 1]])


def _is_whole(matrix: np.ndarray, card: Card, size: int) -> bool:
    return card.height == card.width == size and np.allclose(matrix * size, np.eye(2, 3))


@functools.cache
def _cards() -> Any:
    return resources.files("s2v_ray.models") / "cards"
