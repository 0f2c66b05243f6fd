"""Sections of a recipe about training: teachers, distillation, GAN, parallelism, logs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field, model_validator

from s2v_ray.config.base import Positive, Section, Share, Weight
from s2v_ray.config.networks import GeneratorConfig
from s2v_ray.metrics import VALIDATION


class TeachersConfig(Section):
    """Origin of the teachers and judges. `s2v teach` trains those whose name is empty on the corpus."""

    weights: str = Field("", description="URI of the folder with the weight files that the cards name.")
    identity: str = Field("", description="Card of the identity teacher: the name of a built-in card, or a URI.")
    emotion: str = Field("", description="Card of the emotion teacher.")
    judge_identity: str = Field("", description="Card of the identity judge. It is never distilled.")
    judge_emotion: str = Field("", description="Card of the emotion judge. It is never distilled.")


class TeachConfig(Section):
    """Training of teachers and judges by `s2v teach`."""

    steps: Positive = Field(600, description="Optimizer steps for each face network.")
    batch: Positive = Field(64, description="Stills in a step.")
    lr: float = Field(1e-3, gt=0, description="Peak learning rate (one-cycle schedule).")
    width: Positive = Field(24, description="Channels of the first layer.")
    embedding: Positive = Field(128, description="Dimension of the identity code.")
    sync_steps: Positive = Field(600, description="Optimizer steps for the sync judge.")


class DistillConfig(Section):
    """Cross-modal distillation of the teachers into the student."""

    steps: Positive = Field(1500, description="Optimizer steps.")
    batch: Positive = Field(32, description="Clips in a step, over all workers.")
    speech_frames: Positive = Field(64, description="Length of the speech of a clip, video frames (L).")
    lr: float = Field(1e-3, gt=0, description="Peak learning rate (linear warm-up, cosine decay).")
    weight_decay: float = Field(1e-2, ge=0, description="Decoupled weight decay (AdamW).")
    temperature: float = Field(2.0, gt=0, description="Temperature of the softened emotion targets.")
    emotion: Weight = Field(1.0, description="Weight of the softened emotion cross-entropy.")
    identity: Weight = Field(1.0, description="Weight of 1 - cosine to the teacher's identity code.")
    contrast: Weight = Field(0.5, description="Weight of the contrastive loss of identities across the batch.")
    contrast_temperature: float = Field(0.1, gt=0, description="Temperature of the contrastive loss.")
    emotion_in_identity: Weight = Field(2.0, description="Weight of the disentangling term on the identity code.")
    identity_in_emotion: Weight = Field(
        0.1,
        description="Weight of the disentangling term on the emotion code. Keep it small: if the teacher's identity "
        "code carries emotion, this term works against the emotion code.",
    )
    perturb: bool = Field(
        True, description="Whether the input of the identity encoder is perturbed in loudness, spectral tilt and speed."
    )
    spec_mask: Share = Field(0.15, description="Largest share of mel bands, and of time, that SpecAugment masks.")


class AugmentConfig(Section):
    """Differentiable augmentation of what discriminators of single frames see (DiffAugment, Zhao et al. 2020).

    Real and generated frames of a clip get the same draw, so the generator does not learn to draw augmented frames. It
    keeps discriminators from memorising a small corpus.
    """

    flip: Share = Field(0.0, description="Probability of a mirrored clip.")
    rotation: float = Field(0.0, ge=0, le=30, description="Largest rotation in either direction, degrees.")
    scale: float = Field(0.0, ge=0, le=0.3, description="Largest change of size in either direction, as a share.")
    shift: float = Field(
        0.06, ge=0, le=0.2, description="Largest shift along x and along y in either direction, as a share of the side."
    )
    brightness: float = Field(
        0.1, ge=0, le=0.5, description="Largest value added in either direction, as a share of the range."
    )
    contrast: float = Field(0.15, ge=0, lt=1, description="Largest change of the gain (1 +- this).")
    saturation: float = Field(0.3, ge=0, le=1, description="Largest change of the saturation (1 +- this).")


class ScheduleConfig(Section):
    """When a discriminator takes part, and with which weight."""

    weight: Weight = Field(
        0.0,
        description="Weight of its term in the generator's loss at the end of the ramp: the norm of its gradient on "
        "the generated frames, relative to that of the reconstruction loss. 0 removes the discriminator.",
    )
    features: Weight = Field(
        0.0, description="Weight of its feature matching, on the same scale and with the same ramp."
    )
    start: int = Field(0, ge=0, description="First step in which it takes part in the generator's loss.")
    ramp: int = Field(0, ge=0, description="Steps over which its weights grow linearly from 0.")
    head_start: int = Field(0, ge=0, description="Steps before `start` in which only the discriminator learns.")
    interval: Positive = Field(1, description="Number of steps between its updates.")
    lr: float = Field(
        5e-4, ge=0, description="Its peak learning rate (warm-up and decay as the generator's); 0 freezes it."
    )


class DiscriminatorsConfig(Section):
    """One schedule for each discriminator."""

    width: Positive = Field(24, description="Channels of the first layer of each.")
    augment: AugmentConfig = AugmentConfig()
    frame: ScheduleConfig = Field(
        ScheduleConfig(weight=0.5, features=0.5, start=1000, ramp=200, head_start=100),
        description="Is the frame real, and of this identity?",
    )
    mouth: ScheduleConfig = Field(
        ScheduleConfig(weight=0.3, features=0.3, start=1000, ramp=200, head_start=100),
        description="Is the mouth region real?",
    )
    motion: ScheduleConfig = Field(
        ScheduleConfig(weight=0.3, features=0.3, start=1000, ramp=200, head_start=100),
        description="Do three consecutive frames move, and is their grain, as in real video? Needs gan.frames >= 3.",
    )
    sync: ScheduleConfig = Field(
        ScheduleConfig(weight=0.3, start=0, ramp=100, lr=0.0),
        description="Do mouth and speech agree? With lr 0 the pre-trained network stays frozen.",
    )
    emotion: ScheduleConfig = Field(
        ScheduleConfig(weight=0.1, start=0, ramp=100, interval=4, lr=2e-4),
        description="Which emotion does the face show, and is it real?",
    )
    extra: dict[str, ScheduleConfig] = Field(
        default_factory=dict, description="Schedules of discriminators that plugins register, by name."
    )

    def schedules(self) -> Iterator[tuple[str, ScheduleConfig]]:
        """Names and schedules of all discriminators, the built-in ones first."""
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, ScheduleConfig):
                yield name, value
        yield from self.extra.items()


class SyncConfig(Section):
    """Pre-training of the sync network on real pairs of mouth and speech."""

    steps: Positive = Field(600, description="Optimizer steps of the sync expert.")
    batch: Positive = Field(64, description="Pairs in a step.")
    lr: float = Field(1e-3, gt=0, description="Peak learning rate (linear warm-up, cosine decay).")
    window: Positive = Field(5, description="Frames in a window.")
    min_accuracy: Share = Field(
        0.65, description="Smallest held-out accuracy (chance is 0.5) with which the network is used."
    )


class LatentConfig(Section):
    """Training of take latent and motion code: a conditional variational autoencoder."""

    kl_take: Weight = Field(
        5e-5, description="Weight of the KL divergence of the take posterior, nats. Large values make it collapse."
    )
    kl_motion: Weight = Field(2e-4, description="Weight of the KL divergence of the motion posterior.")
    warmup: int = Field(
        1000,
        ge=0,
        description="Steps over which these weights grow linearly from 0. If they grow faster than the generator "
        "learns to use the latents, the posteriors collapse.",
    )
    start: int = Field(1000, ge=0, description="First step with clips that get the take of another clip.")
    sampled: float = Field(
        0.5, ge=0, lt=1, description="Share of such clips in a batch from then on; they have no reconstruction loss."
    )
    sampled_kl: Weight = Field(0.1, description="Factor on the KL weights from then on.")
    regression: Weight = Field(
        0.1,
        description="Weight of the mean squared difference between a sampled take and the take that the encoder finds "
        "in the generated frames.",
    )


class GanConfig(Section):
    """Training of the generator against its discriminators."""

    steps: Positive = Field(2000, description="Optimizer steps.")
    batch: Positive = Field(8, description="Clips in a step, over all workers.")
    frames: Positive = Field(5, description="Target frames of a clip (T).")
    window_share: Share = Field(
        0.34,
        description="Share of clips whose target frames are consecutive, as sync needs them. Those of the others are "
        "spread over the speech, because consecutive frames are nearly one picture.",
    )
    speech_frames: Positive = Field(64, description="Length of the speech of a clip, video frames (L).")
    lr: float = Field(1e-3, gt=0, description="Peak learning rate of the generator (linear warm-up, cosine decay).")
    betas: tuple[float, float] = Field((0.5, 0.99), description="Adam's betas of generator and discriminators.")
    reconstruction: Weight = Field(1.0, description="Weight of the L1 loss over the frame.")
    mouth: Weight = Field(4.0, description="Additional weight of the L1 loss over the mouth.")
    eyes: Weight = Field(0.0, description="Additional weight of the L1 loss over the eyes: blinks are small and rare.")
    ema: Share = Field(0.995, description="Decay of the generator's moving average.")
    perturb: bool = Field(
        True,
        description="Whether the input of the content encoder is perturbed in loudness and spectral tilt and partly "
        "masked, so that content cannot carry appearance.",
    )
    distilled: bool = Field(
        True,
        description="Whether the student's identity and emotion encoders are loaded and frozen. False is an ablation "
        "of the distillation: the speech network is initialised at random and trained by the GAN's losses; only the "
        "dimensions and labels of the student are used.",
    )
    generator: GeneratorConfig = GeneratorConfig()
    latent: LatentConfig = LatentConfig()
    discriminators: DiscriminatorsConfig = DiscriminatorsConfig()
    sync: SyncConfig = SyncConfig()

    @model_validator(mode="after")
    def _window_has_a_possible_length(self) -> GanConfig:
        if self.frames > self.speech_frames:
            raise ValueError("gan.speech_frames must be at least gan.frames: the target window lies within the speech")
        if self.frames < 3 and self.discriminators.motion.weight > 0:
            raise ValueError("gan.frames must be at least 3 for gan.discriminators.motion: set its weight to 0")
        return self


class ParallelConfig(Section):
    """Workers, precision and memory of a training run."""

    workers: Positive = Field(1, description="Number of training workers.")
    min_workers: int = Field(
        0,
        ge=0,
        description="Elastic training: the smallest number of workers with which training starts and continues if "
        "there are no machines for more; 0: exactly parallel.workers.",
    )
    max_failures: int = Field(
        3, ge=0, description="How often failed workers are restarted from the last checkpoint within one run."
    )
    wait_minutes: float = Field(
        0, ge=0, description="How long to wait for a cluster that is still too small to add machines; 0: not at all."
    )
    cpus_per_worker: float = Field(
        1, gt=0, description="CPUs reserved for a worker; its threads also use the idle CPUs of the machine."
    )
    threads: int = Field(
        0, ge=0, description="Compute threads of a worker without a GPU; 0: CPUs of the machine / workers on it."
    )
    gpu: bool = Field(False, description="Whether each worker uses one GPU.")
    timeout_minutes: float = Field(
        10,
        gt=0,
        description="How long a worker waits for the others in a collective operation before the workers are "
        "restarted. After half of it without progress, the worker that the others wait for is named.",
    )
    tf32: bool = Field(
        False,
        description="Whether GPUs compute float32 products and convolutions in TF32: faster, with 10 bits of mantissa "
        "instead of 23. Off, a step on a GPU equals that on a CPU but for the order of sums.",
    )
    cudnn_benchmark: bool = Field(
        False,
        description="Whether cuDNN measures its algorithms for each shape and takes the fastest one. The choice may "
        "differ between runs, and with it the rounding.",
    )
    zero_generator: Literal[0, 1, 2, 3] = Field(
        1, description="ZeRO stage of the generator and the student; not used by a single worker that offloads nothing."
    )
    zero_discriminators: Literal[0, 1, 2] = Field(
        1, description="ZeRO stage of the discriminators. Stage 3 is not supported: second-order gradients fail there."
    )
    bf16: Literal["auto", "on", "off"] = Field("auto", description="bf16 autocast; auto: if the device supports it.")
    accumulate: Positive = Field(
        1,
        description="Number of parts into which a worker's share of a batch is split to save memory. Gradients are "
        "summed, and the step equals that of the whole batch except for terms that compare clips with each other "
        "(contrast, disentangling, a sync network that is trained).",
    )
    checkpoint_activations: bool = Field(
        False,
        description="Recompute the generator's activations in the backward pass: less memory, a third more arithmetic.",
    )
    offload_optimizer: bool = Field(
        False, description="Keep optimizer states in CPU memory (ZeRO-Offload); every ZeRO stage must be at least 1."
    )
    offload_param: bool = Field(
        False, description="Keep the generator's and the student's weights in CPU memory; needs zero_generator: 3."
    )
    grad_clip: float = Field(1.0, ge=0, description="Largest gradient norm; 0 for no clipping.")

    @property
    def worker_counts(self) -> range:
        """All numbers of workers with which the run may train."""
        return range(self.min_workers or self.workers, self.workers + 1)

    @model_validator(mode="after")
    def _elastic_range_is_not_empty(self) -> ParallelConfig:
        if self.min_workers > self.workers:
            raise ValueError(f"parallel.min_workers={self.min_workers} must not exceed parallel.workers={self.workers}")
        return self

    @model_validator(mode="after")
    def _offloading_has_its_stage(self) -> ParallelConfig:
        stages = {"zero_generator": self.zero_generator, "zero_discriminators": self.zero_discriminators}
        if self.offload_optimizer and 0 in stages.values():
            unsharded = next(name for name, stage in stages.items() if stage == 0)
            raise ValueError(
                f"parallel.offload_optimizer needs ZeRO: set parallel.{unsharded} to 1 or higher, at 0 nothing is "
                "offloaded"
            )
        if self.offload_param and self.zero_generator != 3:
            raise ValueError(
                f"parallel.offload_param needs parallel.zero_generator=3, not {self.zero_generator}: only stage 3 "
                "shards "
                "the weights"
            )
        return self


class LogConfig(Section):
    """Progress lines, validation, checkpoints and trackers of a run."""

    log_every: Positive = Field(25, description="Steps between records of metrics.jsonl and progress lines.")
    validate_every: int = Field(0, ge=0, description="Steps between validations; 0: only at the end.")
    samples_every: int = Field(
        0, ge=0, description="Steps between sample videos of the GAN, in RUN/samples and in the loggers; 0: none."
    )
    checkpoint_every: Positive = Field(500, description="Steps between checkpoints.")
    keep_checkpoints: Positive = Field(2, description="Number of newest checkpoints that are kept.")
    keep_best: str = Field("", description="Validation metric by which the best checkpoint is also kept; '': none.")
    loggers: tuple[str, ...] = Field(
        ("tensorboard", "ray"),
        description="Loggers: tensorboard, ray (gauges at Ray's Prometheus endpoint), mlflow, wandb, or names that "
        "plugins register.",
    )

    @model_validator(mode="after")
    def _best_checkpoint_is_validated(self) -> LogConfig:
        if not self.keep_best:
            return self
        if self.keep_best not in VALIDATION:
            raise ValueError(f"log.keep_best={self.keep_best} is no validation metric: {', '.join(VALIDATION)}")
        if not self.validate_every or self.checkpoint_every % self.validate_every:
            raise ValueError(
                "log.keep_best needs a validation at each checkpoint: set log.validate_every so that it divides "
                "log.checkpoint_every"
            )
        return self
