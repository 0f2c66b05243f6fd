"""Face networks with one interface: teachers (frozen, distilled from) and judges (evaluation only).

A network is a folder with a card (``face_card``). There are two kinds: ``onnx``, any pretrained network by URI, run by
onnxruntime; and ``conv``, a small network that ``training.teach`` trains, with its safetensors beside the card.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from s2v_ray import storage
from s2v_ray.models.face_card import CARD, Card, built_in_cards, read_card, write_card
from s2v_ray.models.face_input import postprocess, preprocess

logger = logging.getLogger(__name__)

BATCH_FACES = 64
"""Faces that are processed at once; limits the memory for any number of frames."""


class ConvFace(nn.Module):
    """A small face network: a convolution with stride 4, two with stride 2, group norm, pooling, one linear layer.

    The first stride makes it cheap on a CPU. ``[N, 3, H, W]`` in about [-1, 1], H and W at least 16 -> ``[N, dim]``.

    Args:
        channels: half the channels of the first layer.
        dim: size of the output.
    """

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        low, high = 2 * channels, 4 * channels
        self.features = nn.Sequential(
            *_block(3, low, 6, 4, 1), *_block(low, high, 3, 2, 1), *_block(high, high, 3, 2, 1)
        )
        self.head = nn.Linear(8 * channels, dim)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, 3, H, W]`` -> ``[N, dim]``."""
        h = self.features(x)
        outputs: Tensor = self.head(torch.cat([h.mean((2, 3)), h.amax((2, 3))], dim=1))
        return outputs


def _block(channels: int, out_channels: int, kernel: int, stride: int, padding: int) -> list[nn.Module]:
    groups = next(g for g in (8, 4, 2, 1) if out_channels % g == 0)
    conv = nn.Conv2d(channels, out_channels, kernel, stride, padding, bias=False)
    return [conv, nn.GroupNorm(groups, out_channels), nn.ReLU()]


class FaceNetwork:
    """A frozen face network that takes aligned crops.

    Args:
        card: its description.
        run: input of the network -> output of the network.
        device: on which preprocessing and the network run.
    """

    def __init__(self, card: Card, run: Callable[[Tensor], Tensor], device: torch.device | str = "cpu") -> None:
        self.card = card
        self.device = torch.device(device)
        self._run = run

    @property
    def role(self) -> str:
        """Role of the network: identity, emotion, mouth or landmarks."""
        return self.card.role

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the emotion logits, in order."""
        return self.card.labels

    @property
    def dim(self) -> int:
        """D, the size of the output for one face."""
        return self.card.dim

    @property
    def digest(self) -> str:
        """Short SHA-256 of weights and preprocessing."""
        return self.card.digest()

    @torch.inference_mode()
    def __call__(self, frames: np.ndarray | Tensor) -> Tensor:
        """Runs the network.

        Args:
            frames: uint8 ``[N, S, S, 3]`` RGB, aligned to ``media.face.TEMPLATE``.

        Returns:
            float32 ``[N, D]`` on the CPU. identity: unit length. emotion: logits. mouth: opening in [0, 1].
                landmarks: x and y of each point, shares of the input's width and height.

        Raises:
            ValueError: ``frames`` has another shape or type.
        """
        faces = torch.as_tensor(frames)
        if faces.dtype != torch.uint8 or faces.ndim != 4 or faces.shape[3] != 3 or faces.shape[1] != faces.shape[2]:
            raise ValueError(f"a face network takes uint8 [N, S, S, 3], not {faces.dtype} {tuple(faces.shape)}")
        if not len(faces):
            return torch.zeros(0, self.dim)
        batches = faces.split(BATCH_FACES)
        outputs = [self._run(preprocess(batch.to(self.device), self.card)).float().cpu() for batch in batches]
        return postprocess(torch.cat(outputs), self.card.role)


def load(uri: str, device: torch.device | str = "cpu") -> FaceNetwork:
    """Loads the network in a folder.

    Raises:
        ArtifactError: there is no valid card, or the weights are missing or are not those of the card.
    """
    card = read_card(storage.join(uri, CARD))
    return build(card, _read_weights(card, uri), device)


def build(card: Card, weights: bytes, device: torch.device | str = "cpu") -> FaceNetwork:
    """Builds a network from its card and the bytes of its weights, whose SHA-256 is checked.

    Raises:
        ArtifactError: the weights are not those of the card, or do not fit it.
    """
    found = storage.sha256(weights)
    if found != card.sha256:
        raise storage.ArtifactError(
            f"weights {card.weights} are not those of the card: "
            f"SHA-256 {found[:16]}..., the card says {card.sha256[:16]}..."
        )
    run = _build_onnx(card, weights, device) if card.kind == "onnx" else _build_conv(card, weights, device)
    return FaceNetwork(card, run, device)


def resolve_card(card: str, weights_uri: str) -> FaceNetwork:
    """Loads the network of a card.

    Args:
        card: built-in name, or URI.
        weights_uri: folder of the weights, or "". A URI in the card has precedence; without either, the weights are
            searched beside the card.

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
    return build(resolved, _read_weights(resolved, ""))


def install_card(card: str, weights_uri: str, folder_uri: str) -> FaceNetwork:
    """Writes a card, with the resolved URI of its weights, into ``folder_uri``; returns the network.

    The weights are not copied, since their licence may forbid it. They are read and checked first, so that nothing
    is written for a network that does not work.

    Args:
        card: built-in name, or URI.
        weights_uri: folder of the weights, or "".
        folder_uri: folder to write.

    Raises:
        ArtifactError: as in ``resolve_card``.
    """
    network = resolve_card(card, weights_uri)
    write_card(network.card, folder_uri)
    return network


def save_conv(folder_uri: str, network: ConvFace, **fields: Any) -> FaceNetwork:
    """Writes a trained network: weights first, with a name that is derived from their content, then the card.

    Args:
        folder_uri: folder to write.
        network: to write.
        fields: of the card, except kind, weights and sha256.
    """
    weights = save_tensors({k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()})
    sha = storage.sha256(weights)
    card = Card(kind="conv", weights=f"weights-{sha[:16]}.safetensors", sha256=sha, **fields)
    storage.write_bytes(storage.join(folder_uri, card.weights), weights)
    write_card(card, folder_uri)
    return build(card, weights)


def _read_weights(card: Card, folder_uri: str) -> bytes:
    uri = card.weights if _is_absolute(card.weights) else storage.join(folder_uri, card.weights)
    try:
        return storage.read_bytes(uri)
    except FileNotFoundError:
        raise storage.ArtifactError(f"the weights of {card.title or card.role} are not at {uri}") from None


def _is_absolute(uri: str) -> bool:
    return "://" in uri or uri.startswith("/")


def _build_onnx(card: Card, weights: bytes, device: torch.device | str) -> Callable[[Tensor], Tensor]:
    import onnxruntime  # takes long to import

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    # Threads that spin while they wait would take CPU time from other work.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(weights, options, providers=_providers(device))
    except Exception as e:  # the errors of onnxruntime have no common base class
        raise storage.ArtifactError(f"{card.weights} cannot be read as an ONNX network: {e}") from e
    inputs, outputs = {i.name: i.shape for i in session.get_inputs()}, {o.name: o.shape for o in session.get_outputs()}
    if card.input not in inputs or card.output not in outputs or _size(outputs[card.output]) != card.dim:
        expected = f"input {card.input!r}, output {card.output!r} of {card.dim}"
        raise storage.ArtifactError(
            f"card and network differ: {card.weights} has inputs {inputs} and outputs {outputs}, "
            f"the card says {expected}"
        )

    def run(faces: Tensor) -> Tensor:
        return torch.from_numpy(session.run([card.output], {card.input: faces.cpu().numpy()})[0]).flatten(1)

    return run


def _providers(device: torch.device | str) -> list[str]:
    """What onnxruntime may run a network on, best first."""
    import onnxruntime

    if torch.device(device).type != "cuda":
        return ["CPUExecutionProvider"]
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        logger.warning(
            "ONNX networks run on the CPU although there is a GPU: install the build of onnxruntime for CUDA, which "
            "replaces it: pip install --no-deps onnxruntime-gpu"
        )
        return ["CPUExecutionProvider"]
    return ["CUDAExecutionProvider", "CPUExecutionProvider"]


def _size(shape: Sequence[int | str | None]) -> int | None:
    """Size of one entry of an output whose first dimension is the batch; None if it is not fixed."""
    sizes = [size for size in shape[1:] if isinstance(size, int)]
    return math.prod(sizes) if len(sizes) == len(shape) - 1 else None


def _build_conv(card: Card, weights: bytes, device: torch.device | str) -> ConvFace:
    network = ConvFace(card.channels, card.dim)
    try:
        network.load_state_dict(load_tensors(weights))
    except (RuntimeError, SafetensorError) as e:
        raise storage.ArtifactError(f"weights {card.weights} do not fit the card: {str(e).splitlines()[0]}") from e
    return network.to(device).eval().requires_grad_(False)
