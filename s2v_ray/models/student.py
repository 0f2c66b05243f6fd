"""The student: a speech network that predicts identity, emotion and content from log-mel speech.

Its three small encoders share no parameters, so that each code carries only what its own loss requires. Shape letters:
B clips, L frames of speech, D identity, E emotion code, K emotions, C content.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from s2v_ray.config import StudentConfig
from s2v_ray.media.audio import log_mel, torchaudio
from s2v_ray.media.timing import MEL_BINS, MEL_PER_FRAME


@dataclass
class StudentOutput:
    """Output of the student. All tensors are float32, also under autocast, because losses compare them.

    Attributes:
        identity: ``[B, D]``, unit length, in the space of the identity teacher's codes.
        emotion: ``[B, E]``: the emotion code of the clip.
        emotion_logits: ``[B, K]``: logits of the clip, computed from its code.
        frame_logits: ``[B, L, K]``: logits of each frame.
        content: ``[B, L, C]``: content of each frame.
    """

    identity: Tensor
    emotion: Tensor
    emotion_logits: Tensor
    frame_logits: Tensor
    content: Tensor

    def content_at(self, index: Tensor) -> Tensor:
        """Select the content at frame positions: int64 ``[B, T]`` -> ``[B, T, C]``."""
        return self.content.gather(1, index[..., None].expand(-1, -1, self.content.shape[2]))


class FrameEncoder(nn.Module):
    """Log-mel ``[B, 80, 4L]`` -> features ``[B, W, L]`` at the video's rate.

    Normalisation is by frame, never over time, so that speech can be encoded in chunks: a feature depends on at most
    ``past_frames`` frames before and ``future_frames`` frames after it.

    Args:
        width: W.
        layers: residual blocks.
        dropout: of each block.
        max_dilation: largest dilation of the convolutions.
        lookahead: largest allowed ``future_frames``, at least 2; None for symmetric convolutions.
    """

    def __init__(
        self, width: int, layers: int, dropout: float = 0.0, max_dilation: int = 8, lookahead: int | None = None
    ) -> None:
        super().__init__()
        dilations = [min(2**i, max_dilation) for i in range(layers)]
        # One frame for the 10 ms convolution, one for the mel window that extends beyond a frame.
        left = None if lookahead is None else lookahead - 2
        self.futures = []
        for d in dilations:
            self.futures.append(d if left is None else min(d, left))
            left = None if left is None else left - self.futures[-1]
        self.pasts = [2 * d - future for d, future in zip(dilations, self.futures, strict=True)]
        self.fine = nn.Conv1d(MEL_BINS, width, 3, padding=1)
        self.to_frames = nn.Conv1d(width, width, MEL_PER_FRAME, stride=MEL_PER_FRAME)
        self.blocks = nn.ModuleList(nn.Conv1d(width, width, 3, dilation=d) for d in dilations)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in dilations)
        self.dropout = nn.Dropout(dropout)
        self.future_frames = sum(self.futures) + 2
        self.past_frames = sum(self.pasts) + 2

    def forward(self, mel: Tensor) -> Tensor:
        """Log-mel ``[B, 80, 4L]`` -> features ``[B, W, L]``."""
        x: Tensor = self.to_frames(F.gelu(self.fine(mel)))
        for norm, conv, past, future in zip(self.norms, self.blocks, self.pasts, self.futures, strict=True):
            normed = norm(x.transpose(1, 2)).transpose(1, 2)
            x = x + self.dropout(conv(F.pad(F.gelu(normed), (past, future))))
        return x


class IdentityEncoder(nn.Module):
    """Statistics pooling over time (as x-vectors, Snyder et al. 2018), then a projection to the unit sphere."""

    def __init__(self, width: int, layers: int, dropout: float, identity_dim: int) -> None:
        super().__init__()
        self.frames = FrameEncoder(width, layers, dropout)
        self.project = nn.Sequential(
            nn.Linear(2 * width, 2 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * width, identity_dim)
        )

    def forward(self, mel: Tensor, mask: Tensor) -> Tensor:
        """Log-mel ``[B, 80, 4L]`` and mask ``[B, L]`` -> identity code ``[B, D]``, unit length."""
        return F.normalize(self.project(pool_statistics(self.frames(mel), mask)).float(), dim=-1)


class EmotionEncoder(nn.Module):
    """A low-dimensional code for each frame, conditioned on statistics of the clip; the clip's code is their mean.

    A tanh limits the code to [-1, 1]: a saturated code separates emotions and has little capacity left for identity.
    """

    def __init__(self, width: int, layers: int, dropout: float, emotion_dim: int, emotions: int) -> None:
        super().__init__()
        self.frames = FrameEncoder(width, layers, dropout)
        self.clip = nn.Sequential(nn.Linear(2 * width, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, width))
        self.code = nn.Sequential(nn.LayerNorm(width), nn.GELU(), nn.Linear(width, emotion_dim), nn.Tanh())
        self.classify = nn.Linear(emotion_dim, emotions)

    def forward(self, mel: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-mel and mask ``[B, L]`` -> code ``[B, E]``, its logits ``[B, K]``, logits of each frame ``[B, L, K]``."""
        x = self.frames(mel)
        codes = self.code(x.transpose(1, 2) + self.clip(pool_statistics(x, mask))[:, None]).float()
        weight = mask[..., None].to(codes.dtype)
        code = (codes * weight).sum(1) / weight.sum(1).clamp(min=1.0)
        return code, self.classify(code), self.classify(codes)


class Student(nn.Module):
    """The speech network that is distilled from the two visual teachers.

    ``identity`` and ``emotion`` are trained by distillation, ``content`` together with the generator.

    Args:
        identity_dim: D of the identity teacher.
        emotions: the emotion teacher's labels.
    """

    emotion_codes: Tensor

    def __init__(self, config: StudentConfig, identity_dim: int, emotions: tuple[str, ...]) -> None:
        super().__init__()
        self.emotions = emotions
        self.identity_dim = identity_dim
        # Set by the distillation task: the largest masked share of mel bands and of time (SpecAugment), and whether the
        # identity encoder is trained on perturbed prosody.
        self.spec_mask = 0.0
        self.perturb = False
        self.perturb_content = False  # set by the GAN's task: perturb the input of the content encoder
        self.identity = IdentityEncoder(config.width, config.layers, config.dropout, identity_dim)
        self.emotion = EmotionEncoder(config.width, config.layers, config.dropout, config.emotion_dim, len(emotions))
        self.content = FrameEncoder(
            config.width, config.layers, config.content_dropout, max_dilation=4, lookahead=config.lookahead
        )
        self.content_out = nn.Linear(config.width, config.content_dim)
        # Mean code of each emotion over the training clips, set by the distillation task: the code of a named emotion.
        self.register_buffer("emotion_codes", torch.zeros(len(emotions), config.emotion_dim))

    @property
    def past_frames(self) -> int:
        """Number of frames before a frame that its content depends on."""
        return int(self.content.past_frames)

    @property
    def future_frames(self) -> int:
        """Number of frames after a frame that its content depends on: the look-ahead."""
        return int(self.content.future_frames)

    def forward(self, speech: Tensor, mask: Tensor | None = None, *, content: bool = True) -> StudentOutput:
        """Encodes speech.

        Args:
            speech: float32 ``[B, L * 640]``, 16 kHz in [-1, 1].
            mask: bool ``[B, L]``, False where the speech is padding; None if nothing is padding.
            content: False skips the content encoder; ``StudentOutput.content`` is then ``[B, 0, C]``.
        """
        mel = log_mel(speech)
        if mask is None:
            mask = torch.ones(mel.shape[0], mel.shape[2] // MEL_PER_FRAME, dtype=torch.bool, device=mel.device)
        content_mel = perturb_colour(mel) if self.content.training and self.perturb_content else mel
        frames = self.content_of(content_mel) if content else mel.new_zeros(len(mel), 0, self.content_out.out_features)
        if self.training and self.spec_mask > 0:
            mel = spec_augment(mel, self.spec_mask)
        voice = perturb_prosody(mel) if self.training and self.perturb else mel
        codes = self.identity(voice, mask), *self.emotion(mel, mask), frames
        return StudentOutput(*(code.float() for code in codes))

    def content_of(self, mel: Tensor) -> Tensor:
        """Content ``[B, L, C]`` of log-mel speech ``[B, 80, 4L]``."""
        content: Tensor = self.content_out(self.content(mel).transpose(1, 2))
        return content


def pool_statistics(x: Tensor, mask: Tensor) -> Tensor:
    """Masked mean and standard deviation over time, in float32: ``[B, W, L]``, mask ``[B, L]`` -> ``[B, 2W]``."""
    x = x.float()
    weight = mask[:, None].float()
    count = weight.sum(-1).clamp(min=1.0)
    mean = (x * weight).sum(-1) / count
    var = ((x - mean[..., None]).square() * weight).sum(-1) / count
    return torch.cat([mean, (var + 1e-5).sqrt()], dim=-1)


def perturb_prosody(mel: Tensor, level: float = 0.4, tilt: float = 0.4, rate: float = 1.25) -> Tensor:
    """Randomly changes loudness, spectral tilt and speed: properties that vary with emotion and not with identity.

    Information perturbation, as in NANSY (Choi et al. 2021, arXiv 2110.14513): an encoder cannot rely on properties
    that are random during training.

    Args:
        mel: ``[B, 80, N]``.
        level: standard deviation of the change of the mean, in units of log-mel.
        tilt: standard deviation of the slope from the lowest band to the highest, in units of log-mel.
        rate: largest factor on the speed. The length is kept by repeating or omitting the end.
    """
    b, bands, n = mel.shape
    gain = level * torch.randn(b, 1, 1, device=mel.device)
    slope = tilt * torch.randn(b, 1, 1, device=mel.device) * torch.linspace(-1, 1, bands, device=mel.device)[:, None]
    speed = rate ** (2 * torch.rand(b, 1, device=mel.device) - 1)
    at = (torch.arange(n, device=mel.device) * speed).round().long().clamp(max=n - 1)
    return mel.gather(2, at[:, None].expand(-1, bands, -1)) + gain + slope


def perturb_colour(mel: Tensor, level: float = 0.4, tilt: float = 0.4, share: float = 0.15) -> Tensor:
    """Randomly changes loudness and spectral tilt, and masks one range of bands: ``[B, 80, N]`` -> the same shape.

    As ``perturb_prosody``, but without a change of time, for an encoder whose output belongs to single frames: what
    identifies a voice or a recording becomes unreliable, what is said does not.
    """
    b, bands, _ = mel.shape
    gain = level * torch.randn(b, 1, 1, device=mel.device)
    slope = tilt * torch.randn(b, 1, 1, device=mel.device) * torch.linspace(-1, 1, bands, device=mel.device)[:, None]
    masked: Tensor = torchaudio.functional.mask_along_axis_iid(
        (mel + gain + slope)[:, None], int(share * bands), 0.0, axis=2
    )
    return masked[:, 0]


def spec_augment(mel: Tensor, share: float) -> Tensor:
    """Masks one range of bands and one of time in each clip, each at most ``share`` (SpecAugment, Park et al. 2019)."""
    mask = torchaudio.functional.mask_along_axis_iid
    bands, time = int(share * mel.shape[1]), int(share * mel.shape[2])
    masked: Tensor = mask(mask(mel[:, None], bands, 0.0, axis=2), time, 0.0, axis=3)  # 0 is the mean of log-mel speech
    return masked[:, 0]
