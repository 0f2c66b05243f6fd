"""The student: hears log-mel speech, gives who speaks, what they feel and what they say.

Three small encoders that share nothing, so that a code can only carry what its own loss asks for. Shape suffixes:
B clips, L frames heard, D identity, E emotion code, K emotions, C content.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from s2v_ray.config import StudentConfig
from s2v_ray.media.audio import log_mel, torchaudio
from s2v_ray.media.timing import MEL_BINS, MEL_PER_FRAME


@dataclass
class Heard:
    """What the student hears in speech. All float32, also where a lower precision computes it: losses compare it.

    Attributes:
        identity: ``[B, D]``, unit length, in the space of the identity teacher's codes.
        emotion: ``[B, E]``: the emotion code of the clip.
        emotion_logits: ``[B, K]``: logits of the clip, read off its code.
        frame_logits: ``[B, L, K]``: logits at each frame.
        content: ``[B, L, C]``: what is said, frame by frame.
    """

    identity: Tensor
    emotion: Tensor
    emotion_logits: Tensor
    frame_logits: Tensor
    content: Tensor

    @staticmethod
    def joined(parts: Sequence[Heard]) -> Heard:
        """What is heard in the clips of all parts, without gradients."""
        return Heard(
            *(torch.cat(columns).detach() for columns in zip(*(vars(part).values() for part in parts), strict=True))
        )


class FrameEncoder(nn.Module):
    """Log-mel ``[B, 80, 4L]`` -> features ``[B, W, L]`` at the video's rate.

    Normalisation is by frame, never over time, so that speech can be encoded in chunks: a feature depends on at most
    ``context_frames`` frames on either side.
    """

    def __init__(self, width: int, layers: int, dropout: float = 0.0, max_dilation: int = 8) -> None:
        super().__init__()
        dilations = [min(2**i, max_dilation) for i in range(layers)]
        self.fine = nn.Conv1d(MEL_BINS, width, 3, padding=1)
        self.to_frames = nn.Conv1d(width, width, MEL_PER_FRAME, stride=MEL_PER_FRAME)
        self.blocks = nn.ModuleList(nn.Conv1d(width, width, 3, padding=d, dilation=d) for d in dilations)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in dilations)
        self.dropout = nn.Dropout(dropout)
        # one frame for the 10 ms convolution, one for the mel window that reaches over a frame's edge
        self.context_frames = sum(dilations) + 2

    def forward(self, mel: Tensor) -> Tensor:
        x = self.to_frames(F.gelu(self.fine(mel)))
        for norm, conv in zip(self.norms, self.blocks, strict=True):
            normed = norm(x.transpose(1, 2)).transpose(1, 2)
            x = x + self.dropout(conv(F.gelu(normed)))
        return x


class IdentityEncoder(nn.Module):
    """Statistics pooling over time (as x-vectors, Snyder et al. 2018), then a projection to the unit sphere."""

    def __init__(self, width: int, layers: int, dropout: float, identity_dim: int) -> None:
        super().__init__()
        self.frames = FrameEncoder(width, layers, dropout)
        self.project = nn.Sequential(
            nn.Linear(2 * width, 2 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * width, identity_dim)
        )

    def forward(self, mel: Tensor, heard: Tensor) -> Tensor:
        return F.normalize(self.project(pool_statistics(self.frames(mel), heard)).float(), dim=-1)


class EmotionEncoder(nn.Module):
    """A low-dimensional code a frame, seen against the statistics of the clip; the clip's code is its mean.

    The code is squeezed to [-1, 1]: saturated, it says which emotion, and has little room left for who speaks.
    """

    def __init__(self, width: int, layers: int, dropout: float, emotion_dim: int, emotions: int) -> None:
        super().__init__()
        self.frames = FrameEncoder(width, layers, dropout)
        self.clip = nn.Sequential(nn.Linear(2 * width, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, width))
        self.code = nn.Sequential(nn.LayerNorm(width), nn.GELU(), nn.Linear(width, emotion_dim), nn.Tanh())
        self.classify = nn.Linear(emotion_dim, emotions)

    def forward(self, mel: Tensor, heard: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.frames(mel)
        codes = self.code(x.transpose(1, 2) + self.clip(pool_statistics(x, heard))[:, None]).float()
        weight = heard[..., None].to(codes.dtype)
        code = (codes * weight).sum(1) / weight.sum(1).clamp(min=1.0)
        return code, self.classify(code), self.classify(codes)


class Student(nn.Module):
    """The speech network that imitates two teachers that see.

    ``identity`` and ``emotion`` are learnt by distillation; ``content`` is learnt with the generator.

    Args:
        identity_dim: D of the identity teacher.
        emotions: the emotion teacher's labels.
    """

    emotion_codes: Tensor

    def __init__(self, config: StudentConfig, identity_dim: int, emotions: tuple[str, ...]) -> None:
        super().__init__()
        self.emotions = emotions
        self.identity_dim = identity_dim
        self.spec_mask = 0.0  # largest share of bands, and of time, hidden in training; set by distillation
        self.perturb = False  # whether the identity encoder hears other prosodies in training; set by distillation
        self.identity = IdentityEncoder(config.width, config.layers, config.dropout, identity_dim)
        self.emotion = EmotionEncoder(config.width, config.layers, config.dropout, config.emotion_dim, len(emotions))
        self.content = FrameEncoder(config.width, config.layers, max_dilation=4)
        self.content_out = nn.Linear(config.width, config.content_dim)
        # mean code of each emotion over the training clips: what "make it sound happy" means; set after distillation
        self.register_buffer("emotion_codes", torch.zeros(len(emotions), config.emotion_dim))

    @property
    def context_frames(self) -> int:
        """Content at a frame depends on at most so many frames on either side."""
        return self.content.context_frames

    def forward(self, speech: Tensor, heard: Tensor | None = None, *, content: bool = True) -> Heard:
        """Hears speech.

        Args:
            speech: float32 ``[B, L * 640]``, 16 kHz in [-1, 1].
            heard: bool ``[B, L]``, False where the speech is padding; None: all of it is speech.
            content: False saves the work where only identity and emotion are wanted; ``Heard.content`` is then ``[B, 0, C]``.
        """
        mel = log_mel(speech)
        if heard is None:
            heard = torch.ones(mel.shape[0], mel.shape[2] // MEL_PER_FRAME, dtype=torch.bool, device=mel.device)
        what = self.content_of(mel) if content else mel.new_zeros(len(mel), 0, self.content_out.out_features)
        if self.training and self.spec_mask > 0:
            mel = spec_augment(mel, self.spec_mask)
        voice = perturb_prosody(mel) if self.training and self.perturb else mel
        codes = self.identity(voice, heard), *self.emotion(mel, heard), what
        return Heard(*(code.float() for code in codes))

    def content_of(self, mel: Tensor) -> Tensor:
        """Content ``[B, L, C]`` of log-mel speech ``[B, 80, 4L]``."""
        return self.content_out(self.content(mel).transpose(1, 2))


def pool_statistics(x: Tensor, heard: Tensor) -> Tensor:
    """Mean and standard deviation over the frames heard, summed in float32: ``[B, W, L]``, ``[B, L]`` -> ``[B, 2W]``."""
    x = x.float()
    weight = heard[:, None].float()
    count = weight.sum(-1).clamp(min=1.0)
    mean = (x * weight).sum(-1) / count
    var = ((x - mean[..., None]).square() * weight).sum(-1) / count
    return torch.cat([mean, (var + 1e-5).sqrt()], dim=-1)


def perturb_prosody(mel: Tensor, level: float = 0.4, tilt: float = 0.4, rate: float = 1.25) -> Tensor:
    """The same voice, louder or softer, brighter or darker, faster or slower: what moods change and identities do not.

    Information perturbation (as in NANSY, Choi et al. 2021, arXiv 2110.14513): what is random in training cannot be leant on.

    Args:
        mel: ``[B, 80, N]``. level, tilt: standard deviations in units of log-mel, of the mean and of the slope from the lowest
            band to the highest. rate: largest factor on the speed; the length is kept, by repeating or leaving out the end.
    """
    b, bands, n = mel.shape
    gain = level * torch.randn(b, 1, 1, device=mel.device)
    slope = tilt * torch.randn(b, 1, 1, device=mel.device) * torch.linspace(-1, 1, bands, device=mel.device)[:, None]
    speed = rate ** (2 * torch.rand(b, 1, device=mel.device) - 1)
    at = (torch.arange(n, device=mel.device) * speed).round().long().clamp(max=n - 1)
    return mel.gather(2, at[:, None].expand(-1, bands, -1)) + gain + slope


def spec_augment(mel: Tensor, share: float) -> Tensor:
    """Hides one band and one stretch of time of each clip, each of at most ``share`` (SpecAugment, Park et al. 2019)."""
    hide = torchaudio.functional.mask_along_axis_iid
    bands, time = int(share * mel.shape[1]), int(share * mel.shape[2])
    return hide(hide(mel[:, None], bands, 0.0, axis=2), time, 0.0, axis=3)[:, 0]  # 0 is the mean of log-mel speech
