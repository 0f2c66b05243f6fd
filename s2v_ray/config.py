"""A recipe: one YAML file that is a whole run's config, read strictly into frozen models.

Each setting sits with its owner and says what it is in its description. An unknown or ill-typed key is an error that
names the key and the nearest right one. ``digest`` covers the full resolved config, defaults included, so that a
changed default is a changed digest.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from s2v_ray import storage
from s2v_ray.metrics import VALIDATION

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Weight = Annotated[float, Field(ge=0.0)]

Role = Literal["driver", "ingest", "train", "serve"]
ROLE_LABEL = "s2v-role"
"""The label of a cluster's node that says which work is for it, a ``Role``. The manifests in ``cluster/`` set it."""


class RecipeError(ValueError):
    """A recipe that cannot be used; the message names the key and says what to do."""


class Section(BaseModel):
    """A part of a recipe: frozen, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class MediaConfig(Section):
    size: Literal[32, 64, 96, 128, 256] = Field(64, description="Side of the square face crop, pixels.")
    smoothing: float = Field(
        0.08, ge=0, description="Standard deviation of the smoothing of landmarks over time, seconds; 0 for none."
    )


class PuppetsConfig(Section):
    speakers: int = Field(24, ge=2, description="Number of puppets.")
    emotions: tuple[Literal["neutral", "happy", "sad", "angry", "surprised", "fearful"], ...] = Field(
        ("neutral", "happy", "sad", "angry", "surprised"), description="Emotions each sentence is spoken with."
    )
    sentences: int = Field(5, gt=0, description="Different sentences each speaker says with each emotion.")
    size: int = Field(160, ge=64, le=512, description="Side of the video, pixels.")
    max_seconds: float = Field(
        3.2, gt=0.5, description="A sentence is cut at a word's end so that a clip is no longer."
    )


class IngestConfig(Section):
    source: Literal["auto", "folder", "puppets", "grid", "cremad", "ravdess"] = Field(
        "auto", description="Layout of the source; auto tells by what lies there."
    )
    split: Literal["within", "disjoint"] = Field(
        "within",
        description="within: every speaker in train, unseen sentences in val and test. disjoint: unseen speakers.",
    )
    val_share: Share = Field(0.1, description="Share of clips (of speakers, when disjoint) for validation.")
    test_share: Share = Field(0.1, description="Share of clips (of speakers, when disjoint) for the test.")
    detector: str = Field(
        "haar",
        description="'haar': built in, no download. Otherwise the URI of YuNet weights (ONNX). Unused where the source knows the landmarks.",
    )
    min_seconds: float = Field(0.8, gt=0, description="Shorter clips are rejected.")
    max_seconds: float = Field(30.0, gt=0, description="Longer clips are cut into pieces of at most this length.")
    offset: Literal["none", "source", "speaker", "clip"] = Field(
        "none",
        description="Sound is moved by the offset measured for the whole source, the speaker, or the clip (where that is unsure, the next coarser one).",
    )
    offsets: str = Field("", description="URI of what `s2v offsets` measured on this source.")
    offset_confidence: Weight = Field(
        0.35,
        description="A measured offset less sure than this is not used. Of 20 puppet clips each had 0.47 or more; with a stranger's sound 0.33 or less.",
    )
    min_face: Positive = Field(
        32, description="Smallest distance-based face side accepted, pixels of the source picture."
    )
    clips_per_shard: Positive = Field(32, description="Clips in one shard.")
    jpeg_quality: int = Field(92, ge=50, le=100, description="Quality of the encoded frames.")
    max_reject_share: Share = Field(0.5, description="Ingest fails loudly when more clips than this are rejected.")


class TeachersConfig(Section):
    """Where the teachers and judges come from. An empty name: `s2v teach` trains that network on the corpus."""

    weights: str = Field("", description="URI of the folder that holds the weight files named by the cards.")
    identity: str = Field("", description="Card of the identity teacher: a name among the built-in cards, or a URI.")
    emotion: str = Field("", description="Card of the emotion teacher.")
    judge_identity: str = Field("", description="Card of the identity judge. Never distilled from.")
    judge_emotion: str = Field("", description="Card of the emotion judge. Never distilled from.")


class TeachConfig(Section):
    steps: Positive = Field(600, description="Steps for each network that is trained.")
    batch: Positive = Field(64, description="Stills a step.")
    lr: float = Field(1e-3, gt=0, description="Peak learning rate (one cycle).")
    width: Positive = Field(24, description="Channels of the first layer.")
    embedding: Positive = Field(128, description="Dimension of the identity code.")
    sync_steps: Positive = Field(600, description="Steps for the judge of lip sync.")


class StudentConfig(Section):
    width: Positive = Field(128, description="Channels of the speech encoders.")
    layers: Positive = Field(4, description="Residual blocks of each encoder.")
    emotion_dim: Positive = Field(8, description="Dimension of the emotion code.")
    content_dim: Positive = Field(64, description="Dimension of the content at each frame.")
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout in the identity and emotion encoders.")


class DistillConfig(Section):
    steps: Positive = Field(1500, description="Optimizer steps.")
    batch: Positive = Field(32, description="Clips a step, all workers together.")
    speech_frames: Positive = Field(64, description="Frames of speech heard a clip (L).")
    lr: float = Field(1e-3, gt=0, description="Peak learning rate (linear warm-up, cosine decay).")
    weight_decay: float = Field(1e-2, ge=0)
    temperature: float = Field(2.0, gt=0, description="Softening of the emotion targets.")
    emotion: Weight = Field(1.0, description="Weight of the softened emotion cross-entropy.")
    identity: Weight = Field(1.0, description="Weight of 1 - cosine to the teacher's identity.")
    contrast: Weight = Field(0.5, description="Weight of the contrast of identities across the batch.")
    contrast_temperature: float = Field(0.1, gt=0)
    emotion_in_identity: Weight = Field(2.0, description="Weight of the disentangling term on the identity code.")
    identity_in_emotion: Weight = Field(
        0.1,
        description="Weight of the disentangling term on the emotion code. Small: a seen identity that tells emotions makes it work against emotion.",
    )
    perturb: bool = Field(
        True,
        description="Whether the identity encoder hears each clip louder or softer, brighter or darker, faster or slower.",
    )
    spec_mask: Share = Field(0.15, description="Largest share of mel bands, and of time, that SpecAugment masks.")


class AugmentConfig(Section):
    """What the GAN's real frames and the still go through, on the device: one draw for a clip, the same for all its frames. Off by default.

    Nobody but the frames is told of the draw. Codes, heard and seen, are of the clip as it was recorded, so a generator from speech alone
    cannot know what was drawn, and L1 teaches it the mean of all draws: blur. The reference baseline can know, for its still goes through the
    same draw; its figures and the method's compare only where both trained alike. Validation and evaluation see frames as they are.
    """

    flip: Share = Field(
        0.0,
        description="Probability of a mirrored clip. The mouth's region stays in place; a parting, a mole or a tilt that belongs to the identity is lost.",
    )
    rotation: float = Field(
        0.0,
        ge=0,
        le=30,
        description="Largest turn either way, degrees. The mouth's region stays where the aligned mouth was: small.",
    )
    scale: float = Field(
        0.0, ge=0, le=0.3, description="Largest change of size either way, as a share. Small, for the same reason."
    )
    shift: float = Field(
        0.0,
        ge=0,
        le=0.2,
        description="Largest shift along x and along y either way, as a share of the side. Small, for the same reason.",
    )
    brightness: float = Field(
        0.0,
        ge=0,
        le=0.5,
        description="Largest amount added either way, share of the range. Works against the identity code: the teacher saw other colours.",
    )
    contrast: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Largest change of the gain (1 +- so much) either way. Works against the identity code, too.",
    )
    saturation: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Largest change of the saturation (1 +- so much) either way. Works against the identity code, too.",
    )


class GeneratorConfig(Section):
    channels: tuple[Positive, ...] = Field(
        (128, 96, 64, 32, 16),
        description="Channels at 4, 8, 16, ... pixels; one entry for each doubling up to the crop's size.",
    )
    noise_dim: Positive = Field(8, description="Dimension of the noise sequence.")
    reference: bool = Field(
        False, description="True builds the reference baseline: an image encoder and skip connections from a still."
    )


class ScheduleConfig(Section):
    """When and how strongly one discriminator takes part."""

    weight: Weight = Field(
        0.0, description="Weight of its term in the generator's loss, at the end of the ramp; 0 leaves it out."
    )
    start: int = Field(0, ge=0, description="First step at which it takes part.")
    ramp: int = Field(0, ge=0, description="Steps over which its weight grows linearly from 0.")
    interval: Positive = Field(1, description="It is updated every so many steps.")
    lr: float = Field(2e-4, ge=0, description="Its learning rate; 0 freezes it.")


class DiscriminatorsConfig(Section):
    width: Positive = Field(24, description="Channels of the first layer of each.")
    frame: ScheduleConfig = Field(
        ScheduleConfig(weight=0.05, start=300, ramp=200), description="Is this frame real, and this person's?"
    )
    sequence: ScheduleConfig = Field(
        ScheduleConfig(weight=0.02, start=300, ramp=200, interval=2),
        description="Does this sequence move as real ones do?",
    )
    sync: ScheduleConfig = Field(
        ScheduleConfig(weight=0.1, start=0, ramp=100, lr=0.0),
        description="Do mouth and speech agree? lr 0: the pre-trained network judges, unmoved.",
    )
    emotion: ScheduleConfig = Field(
        ScheduleConfig(weight=0.05, start=0, ramp=100, interval=4),
        description="Which emotion does the face show, and is it real?",
    )


class SyncConfig(Section):
    steps: Positive = Field(
        600, description="Pre-training steps of the sync network on real pairs, in step and shifted."
    )
    batch: Positive = Field(64, description="Pairs a step.")
    lr: float = Field(1e-3, gt=0)
    window: Positive = Field(5, description="Frames in one window.")
    min_accuracy: Share = Field(
        0.65, description="Held-out accuracy (chance is 0.5) under which training refuses to go on."
    )


class GanConfig(Section):
    steps: Positive = Field(2000, description="Optimizer steps.")
    batch: Positive = Field(8, description="Clips a step, all workers together.")
    frames: Positive = Field(8, description="Frames shown a clip (T).")
    speech_frames: Positive = Field(64, description="Frames of speech heard a clip (L).")
    lr: float = Field(1e-3, gt=0, description="The generator's peak learning rate (linear warm-up, cosine decay).")
    betas: tuple[float, float] = Field((0.5, 0.99), description="Adam's betas, for generator and discriminators.")
    reconstruction: Weight = Field(1.0, description="Weight of L1 over the frame.")
    mouth: Weight = Field(4.0, description="Extra weight of L1 over the mouth.")
    ema: Share = Field(0.995, description="Decay of the generator's moving average.")
    distilled: bool = Field(
        True,
        description="Identity and emotion are heard as distillation taught, unmoved. False, to show what distillation is worth: the speech network starts "
        "anew and learns all from the GAN's losses; of the student only its dimensions and labels are used.",
    )
    generator: GeneratorConfig = GeneratorConfig()
    discriminators: DiscriminatorsConfig = DiscriminatorsConfig()
    sync: SyncConfig = SyncConfig()


class ParallelConfig(Section):
    workers: Positive = Field(1, description="Training workers.")
    min_workers: int = Field(
        0,
        ge=0,
        description="Elastic: the least workers that training starts and goes on with, where there are no machines for more; 0: parallel.workers exactly.",
    )
    max_failures: int = Field(
        3, ge=0, description="How often workers that died are started again, from the last checkpoint, within one run."
    )
    wait_minutes: float = Field(
        0,
        ge=0,
        description="How long to wait for a cluster that grows, where it has too few machines yet; 0: not at all.",
    )
    cpus_per_worker: float = Field(
        1, gt=0, description="CPUs reserved for a worker; it computes on the machine's idle ones too (threads)."
    )
    threads: int = Field(
        0, ge=0, description="Compute threads of a worker without a GPU; 0: the machine's CPUs / workers on it."
    )
    gpu: bool = Field(False, description="One GPU for each worker.")
    zero_generator: Literal[0, 1, 2, 3] = Field(
        1, description="ZeRO stage of the generator and the student; one worker alone that offloads nothing has none."
    )
    zero_discriminators: Literal[0, 1, 2] = Field(
        1, description="ZeRO stage of the discriminators. Stage 3 is not offered: gradients of gradients fail there."
    )
    bf16: Literal["auto", "on", "off"] = Field("auto", description="bf16 autocast; auto: where the device has it.")
    accumulate: Positive = Field(
        1,
        description="Parts into which a worker's share of a batch is split to save memory; their gradients are summed, and the step is that of the whole "
        "batch, but for the terms that compare its clips with each other (contrast, disentangling, a sync network that learns).",
    )
    checkpoint_activations: bool = Field(
        False,
        description="The generator keeps its blocks' inputs and computes the rest again for the gradients: less memory, a third more arithmetic.",
    )
    offload_optimizer: bool = Field(
        False,
        description="Optimizer states live in the CPU's memory (ZeRO-Offload); every ZeRO stage must be 1 or higher.",
    )
    offload_param: bool = Field(
        False,
        description="The generator's and the student's weights live in the CPU's memory; needs zero_generator: 3.",
    )
    grad_clip: float = Field(1.0, ge=0, description="Largest gradient norm; 0 for no clipping.")


class LogConfig(Section):
    log_every: Positive = Field(25, description="Steps between progress lines.")
    validate_every: int = Field(0, ge=0, description="Steps between validations; 0: only at the end.")
    samples_every: int = Field(
        0, ge=0, description="Steps between sample videos of the GAN, in RUN/samples and TensorBoard; 0: none."
    )
    checkpoint_every: Positive = Field(500, description="Steps between checkpoints.")
    keep_checkpoints: Positive = Field(2, description="Newest checkpoints kept.")
    keep_best: str = Field(
        "", description="Validation metric (metrics.VALIDATION) by which the best checkpoint is kept, too; '': none."
    )


class EvaluateConfig(Section):
    split: Literal["val", "test"] = "test"
    max_clips: Positive = Field(60, description="Clips evaluated; taken evenly over speakers and emotions, seeded.")
    bootstrap: Positive = Field(1000, description="Resamples for the 95% intervals.")
    contact_clips: Positive = Field(4, description="Clips shown on the contact sheet.")


class Recipe(Section):
    """A whole run's config."""

    name: str = Field("unnamed", description="Name of the recipe.")
    seed: int = Field(0, description="Seed of everything random.")
    media: MediaConfig = MediaConfig()
    puppets: PuppetsConfig = PuppetsConfig()
    ingest: IngestConfig = IngestConfig()
    teachers: TeachersConfig = TeachersConfig()
    teach: TeachConfig = TeachConfig()
    student: StudentConfig = StudentConfig()
    distill: DistillConfig = DistillConfig()
    augment: AugmentConfig = AugmentConfig()
    gan: GanConfig = GanConfig()
    parallel: ParallelConfig = ParallelConfig()
    log: LogConfig = LogConfig()
    evaluate: EvaluateConfig = EvaluateConfig()

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        levels, given = (
            (self.media.size // 4).bit_length(),
            len(self.gan.generator.channels),
        )  # 96: 6 pixels doubled 4 times
        if given != levels:
            base = self.media.size >> (levels - 1)
            raise ValueError(
                f"gan.generator.channels needs {levels} entries for media.size={self.media.size} ({base} pixels doubled {levels - 1} times), not {given}"
            )
        if (self.ingest.offset == "none") != (self.ingest.offsets == ""):
            raise ValueError(
                "ingest.offset (source, speaker or clip) and ingest.offsets (what `s2v offsets` wrote) go together: give both or neither"
            )
        if self.gan.frames > self.gan.speech_frames:
            raise ValueError(
                "gan.speech_frames must be at least gan.frames: the window shown lies within the speech heard"
            )
        accumulate = self.parallel.accumulate
        for name, batch in (("distill.batch", self.distill.batch), ("gan.batch", self.gan.batch)):
            for workers in range(self.parallel.min_workers or self.parallel.workers, self.parallel.workers + 1):
                if batch % (workers * accumulate):
                    times = f" times parallel.accumulate={accumulate}" if accumulate > 1 else ""
                    elastic = (
                        f" and of each number from parallel.min_workers={self.parallel.min_workers} on"
                        if self.parallel.min_workers
                        else ""
                    )
                    raise ValueError(
                        f"{name}={batch} must be a multiple of parallel.workers={self.parallel.workers}{elastic}{times}"
                    )
        stages = {
            "zero_generator": self.parallel.zero_generator,
            "zero_discriminators": self.parallel.zero_discriminators,
        }
        if self.parallel.offload_optimizer and 0 in stages.values():
            whole = next(name for name, stage in stages.items() if stage == 0)
            raise ValueError(
                f"parallel.offload_optimizer needs ZeRO: set parallel.{whole} to 1 or higher, at 0 nothing is offloaded"
            )
        if self.parallel.offload_param and self.parallel.zero_generator != 3:
            raise ValueError(
                f"parallel.offload_param needs parallel.zero_generator=3, not {self.parallel.zero_generator}: only stage 3 splits the weights"
            )
        if self.parallel.min_workers > self.parallel.workers:
            raise ValueError(
                f"parallel.min_workers={self.parallel.min_workers} must not exceed parallel.workers={self.parallel.workers}"
            )
        if self.log.keep_best:
            if self.log.keep_best not in VALIDATION:
                raise ValueError(f"log.keep_best={self.log.keep_best} is no validation metric: {', '.join(VALIDATION)}")
            if not self.log.validate_every or self.log.checkpoint_every % self.log.validate_every:
                raise ValueError(
                    "log.keep_best needs a validation at each checkpoint: set log.validate_every so that it divides log.checkpoint_every"
                )
        return self

    def with_reference(self, reference: bool) -> Recipe:
        """The same recipe for the reference baseline, or for the method."""
        generator = self.gan.generator.model_copy(update={"reference": reference})
        return self.model_copy(update={"gan": self.gan.model_copy(update={"generator": generator})})

    def digest(self) -> str:
        """SHA-256 (first 16 hex digits) of the full resolved config."""
        return digest(self.model_dump(mode="json"))


def digest(value: Any) -> str:
    """SHA-256 (first 16 hex digits) of any JSON-able value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:16]


def load_recipe(uri: str, overrides: list[str] | tuple[str, ...] = ()) -> Recipe:
    """Reads a recipe: a built-in name ("puppets"), or a URI of a YAML file; then applies ``a.b=c`` overrides.

    Raises:
        RecipeError: no such recipe, bad YAML, or a key or value that does not fit; the message says which.
    """
    text = _read_recipe(uri)
    try:
        data = yaml.safe_load(text) or {}
    except yaml.YAMLError as e:
        raise RecipeError(f"{uri} is not valid YAML: {e}") from e
    if not isinstance(data, dict):
        raise RecipeError(f"{uri} must be a mapping of sections, not {type(data).__name__}")
    for override in overrides:
        _apply(data, override)
    return parse_recipe(data, uri)


def parse_recipe(data: dict[str, Any], origin: str = "recipe") -> Recipe:
    """Builds a recipe from plain data; errors as in ``load_recipe``."""
    try:
        return Recipe.model_validate(data)
    except ValidationError as e:
        raise RecipeError(f"{origin}: " + "; ".join(_explain(err) for err in e.errors())) from e


def built_in_recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(
        p.name.removesuffix(".yaml") for p in resources.files("s2v_ray.recipes").iterdir() if p.name.endswith(".yaml")
    )


def _read_recipe(uri: str) -> str:
    if uri in built_in_recipes():
        return (resources.files("s2v_ray.recipes") / f"{uri}.yaml").read_text()
    try:
        return storage.read_bytes(uri).decode()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        near = difflib.get_close_matches(Path(uri).stem, built_in_recipes(), 1)
        hint = (
            f"; did you mean the built-in recipe {near[0]!r}?"
            if near
            else f"; built-in recipes: {', '.join(built_in_recipes())}"
        )
        raise RecipeError(f"no recipe at {uri}{hint}") from None


def _apply(data: dict[str, Any], override: str) -> None:
    key, sep, value = override.partition("=")
    if not sep or not key:
        raise RecipeError(f"--set takes a.b=c, not {override!r}")
    *parents, last = key.strip().split(".")
    node = data
    for parent in parents:
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise RecipeError(f"--set {override}: {parent} is a value, not a section")
    try:
        node[last] = yaml.safe_load(value)
    except yaml.YAMLError as e:
        raise RecipeError(f"--set {override}: the value is not valid YAML: {e}") from e


def _explain(error: Any) -> str:
    path = ".".join(str(p) for p in error["loc"]) or "recipe"
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(path, _all_keys(Recipe), 1, cutoff=0.5)
        return f"unknown key {path!r}" + (f"; did you mean {near[0]!r}?" if near else "")
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error":
        return message
    return f"{path}: {message[0].lower()}{message[1:]}, got {error['input']!r}"


def _all_keys(section: type[BaseModel], prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, info in section.model_fields.items():
        keys.append(prefix + name)
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            keys += _all_keys(info.annotation, f"{prefix}{name}.")
    return keys
