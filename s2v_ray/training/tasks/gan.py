"""The GAN: one generator, several discriminators, two engines.

Order within a step, and its reason: the generator runs once; the discriminators learn from its detached frames, all
their losses summed into one backward; then they are frozen and called as plain modules for the generator's loss, again
one sum and one backward. Other orders silently lose gradients under ZeRO. If a batch is split into micro-batches
(``parallel.accumulate``), the discriminators learn from all of them before the generator's loss is computed, as they
would from the whole batch: the generator runs twice on each micro-batch, because splitting exists to avoid keeping the
graphs of all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from s2v_ray import shards, storage
from s2v_ray.clip import ClipBatch, to_pixels, to_unit
from s2v_ray.losses.distillation import aggregate_emotion
from s2v_ray.losses.reconstruction import weighted_l1
from s2v_ray.media.augment import augment
from s2v_ray.media.face import mouth_mask
from s2v_ray.media.timing import SAMPLES_PER_FRAME
from s2v_ray.models.bundle import load_bundle, save_bundle
from s2v_ray.models.generator import NoiseSequence, Speech2Video
from s2v_ray.models.judges import Judges, open_validators
from s2v_ray.training.engine import (
    Engine,
    OptimizerConfig,
    check_finite,
    frozen,
    mean_over_micro_batches,
)
from s2v_ray.training.loggers import Sample
from s2v_ray.training.schedules import warmup_cosine
from s2v_ray.training.tasks.adversaries import Adversaries, DiscriminatorInputs
from s2v_ray.training.tasks.context import TaskContext
from s2v_ray.training.validation import Figures, missing_note

FRAMES_PER_CLIP = 2
"""Frames of a window that the discriminators of single frames use."""
Scalars = dict[str, Tensor | float]


@dataclass
class MicroBatch:
    """Some clips of a step and their random draws.

    Attributes:
        batch: the clips.
        real: ``[B, T, 3, S, S]`` in [-1, 1], augmented.
        still: ``[B, 3, S, S]`` in [-1, 1], augmented.
        noise: ``[B, T, Z]``.
        frame_indices: ``[B, n]``, frames for the discriminators of single frames.
    """

    batch: ClipBatch
    real: Tensor
    still: Tensor
    noise: Tensor
    frame_indices: Tensor


@dataclass
class Generated:
    """Frames of a micro-batch with what the discriminators need.

    Attributes:
        inputs: the real window and its conditions.
        fake: generated ``[B, T, 3, S, S]`` in [-1, 1].
    """

    inputs: DiscriminatorInputs
    fake: Tensor


class GanTask:
    """The GAN's step, and what the trainer needs around it.

    Args:
        context: recipe, engines, device and rank.
        model: student and generator.
        adversaries: the discriminators.
        lineage: digests of the artifacts that the model is made from.
        judges: the networks that validation measures with; None for none.
    """

    def __init__(
        self,
        context: TaskContext,
        model: Speech2Video,
        adversaries: Adversaries,
        lineage: dict[str, Any],
        judges: Judges | None = None,
    ) -> None:
        self.recipe, self.device, self.rank = context.recipe, context.device, context.rank
        self.lineage, self.judges = lineage, judges or Judges()
        self.note = missing_note(self.judges)
        self.alarms, self.diagnostics = adversaries.alarms, adversaries.diagnostics
        self.student = model.student
        self.mask = mouth_mask(self.recipe.media.size).to(self.device)
        self.random = torch.Generator()
        config, parallel = self.recipe.gan, self.recipe.parallel
        model.generator.checkpointing = parallel.checkpoint_activations
        fixed = {id(p) for p in model.distilled()} if config.distilled else set()
        for p in model.parameters():
            p.requires_grad_(id(p) not in fixed)
        self.ema = {name: p.detach().clone().float() for name, p in model.named_parameters() if id(p) not in fixed}
        self.generator = context.make_engine(
            model,
            [{"params": [p for p in model.parameters() if id(p) not in fixed], "name": "generator"}],
            OptimizerConfig(config.lr, config.betas),
            zero_stage=parallel.zero_generator,
            offload_param=parallel.offload_param,
        )
        self.engines: dict[str, Engine] = {"generator": self.generator}
        self.discriminators: Engine | None = None
        if adversaries.items():
            groups = [{"params": list(member.parameters()), "name": name} for name, member in adversaries.items()]
            optimizer = OptimizerConfig(0.0, config.betas)  # each group's rate is set in every step
            self.discriminators = context.make_engine(
                adversaries, groups, optimizer, zero_stage=parallel.zero_discriminators
            )
            self.engines["discriminators"] = self.discriminators

    def step(self, batch: ClipBatch, step: int) -> Scalars:
        """Update the discriminators that are due, then the generator."""
        config = self.recipe.gan
        self.random.manual_seed(draw_seed(self.recipe.seed, step, self.rank))
        self.generator.set_lr("generator", warmup_cosine(step, config.steps, config.lr))
        self.generator.module.train()
        self.student.eval()  # its distilled encoders are fixed: no dropout
        micro_batches = self._micro_batches(batch, step)
        whole = [self._generate(micro_batches[0])] if len(micro_batches) == 1 else None
        scalars = self._update_discriminators(whole or map(torch.no_grad()(self._generate), micro_batches), step)
        parts = []
        for generated in self._with_same_buffers(whole or map(self._generate, micro_batches)):
            terms = self._generator_terms(generated, step)
            loss = sum((weight * term for weight, term in terms.values()), torch.zeros((), device=self.device))
            check_finite("generator", {name: term for name, (_, term) in terms.items()}, self.generator)
            self.generator.backward(loss / len(micro_batches))
            parts.append({"loss": loss.detach(), **{f"g_{name}": term.detach() for name, (_, term) in terms.items()}})
        self.generator.step()
        self._update_average(step)
        return scalars | mean_over_micro_batches(parts)

    def _generator_terms(self, generated: Generated, step: int) -> dict[str, tuple[float, Tensor]]:
        """Weight and value of each term of the generator's loss."""
        config, real = self.recipe.gan, generated.inputs.frames
        terms = {"reconstruction": (config.reconstruction, weighted_l1(generated.fake, real, self.mask, config.mouth))}
        if self.discriminators is not None:
            with frozen(self.discriminators.module), self.discriminators.autocast():
                terms |= self.discriminators.module.generator_losses(generated.inputs, generated.fake, step)
        return terms

    def _update_discriminators(self, generated: Iterable[Generated], step: int) -> Scalars:
        """Update the discriminators that are due at ``step`` on generated frames of all micro-batches."""
        if self.discriminators is None:
            return {}
        adversaries: Adversaries = self.discriminators.module
        scalars: Scalars = {**adversaries.scalars(step)}
        updated = adversaries.updated_at(step)
        if not updated:
            return scalars
        for name, member in adversaries.items():
            self.discriminators.set_lr(name, member.schedule.lr if name in updated else 0.0)
        parts = []
        for part in self._with_same_buffers(generated):
            losses: dict[str, Tensor] = self.discriminators(part.inputs, part.fake.detach(), step)
            check_finite("discriminators", losses, self.discriminators)
            self.discriminators.backward(torch.stack(list(losses.values())).sum() / self.recipe.parallel.accumulate)
            parts.append({f"d_{name}": loss.detach() for name, loss in losses.items()})
        self.discriminators.step()
        return scalars | mean_over_micro_batches(parts)

    def _micro_batches(self, batch: ClipBatch, step: int) -> list[MicroBatch]:
        """Split the batch into ``parallel.accumulate`` parts. Random draws are made for the whole batch."""
        real, still = self._augmented(batch, step)
        b, t = real.shape[:2]
        noise = NoiseSequence(b, self.recipe.gan.generator.noise_dim, self.random).draw(t).to(self.device)
        indices = torch.stack([torch.randperm(t, generator=self.random)[:FRAMES_PER_CLIP] for _ in range(b)])
        clips = batch.split(self.recipe.parallel.accumulate)
        tensors = (x.split(b // len(clips)) for x in (real, still, noise, indices.to(self.device)))
        return [MicroBatch(*part) for part in zip(clips, *tensors, strict=True)]

    def _augmented(self, batch: ClipBatch, step: int) -> tuple[Tensor, Tensor]:
        """Real frames ``[B, T, 3, S, S]`` and still ``[B, 3, S, S]`` in [-1, 1], each clip with the same draw."""
        key = (self.recipe.seed, step, self.rank)
        inputs = (to_unit(batch.frames), to_unit(batch.still)[:, None])
        frames, still = (augment(x, self.recipe.augment, key) for x in inputs)
        return frames, still[:, 0]

    def _generate(self, part: MicroBatch) -> Generated:
        """Run the generator on a micro-batch."""
        batch = part.batch
        fake, codes = self.generator(batch.speech, batch.speech_mask, batch.start, part.noise, part.still)
        return Generated(self._inputs(part, codes.identity.detach()), fake)

    def _inputs(self, part: MicroBatch, identity: Tensor) -> DiscriminatorInputs:
        assert part.batch.emotion is not None, "the stream must join the teachers' outputs"
        return DiscriminatorInputs(
            frames=part.real,
            speech=_window_speech(part.batch, part.real.shape[1]),
            identity=identity,
            emotion=aggregate_emotion(part.batch.emotion, part.batch.speech_mask).softmax(-1),
            frame_indices=part.frame_indices,
        )

    def _with_same_buffers(self, generated: Iterable[Generated]) -> Iterator[Generated]:
        """Yield each micro-batch with the discriminators' initial buffers: spectral norm changes them in a forward."""
        buffers = [] if self.discriminators is None else list(self.discriminators.module.buffers())
        before = [b.clone() for b in buffers]
        for i, part in enumerate(generated):
            if i:
                torch._foreach_copy_(buffers, before)
            yield part

    @torch.no_grad()
    def _update_average(self, step: int) -> None:
        # The decay grows from 0, so that the random initialisation does not remain in the average.
        decay = min(self.recipe.gan.ema, (step + 1) / (step + 10))
        with self.generator.gathered_parameters():
            parameters = dict(self.generator.module.named_parameters())
            current = [parameters[name].detach().float() for name in self.ema]
            torch._foreach_lerp_(list(self.ema.values()), current, 1 - decay)

    def averaged(self) -> Speech2Video:
        """Return a copy of the model with the moving average of its parameters."""
        with self.generator.gathered_parameters():
            weights = {name: value.detach().clone() for name, value in self.generator.module.state_dict().items()}
        with torch.random.fork_rng(devices=[]):  # the initialisation is overwritten
            model = Speech2Video(self.recipe, self.student.identity_dim, self.student.emotions).to(self.device)
        model.load_state_dict(weights | self.ema)
        return model.eval().requires_grad_(False)

    @torch.no_grad()
    def validate(self, batches: Iterable[ClipBatch]) -> dict[str, float]:
        """Measure the averaged generator (``metrics.VALIDATION``) on the batches of all workers."""
        model, figures = self.averaged(), Figures(self.judges)
        random = torch.Generator().manual_seed(0)
        for batch in batches:
            fake = self._draw(model, batch, random)
            figures.add(batch, _window_speech(batch, batch.frames.shape[1]), fake, self.mask)
        return figures.result()

    @torch.no_grad()
    def samples(self, batch: ClipBatch) -> list[Sample]:
        """Generate from a batch's speech with the averaged generator."""
        fake = self._draw(self.averaged(), batch, torch.Generator().manual_seed(0))
        columns = (to_pixels(fake), batch.frames, _window_speech(batch, batch.frames.shape[1]))
        return [Sample(name, *(c.cpu().numpy() for c in clip)) for name, *clip in zip(batch.ids, *columns, strict=True)]

    def _draw(self, model: Speech2Video, batch: ClipBatch, random: torch.Generator) -> Tensor:
        """Generate the frames of a batch, ``[B, T, 3, S, S]``."""
        b, t = batch.frames.shape[:2]
        noise = NoiseSequence(b, self.recipe.gan.generator.noise_dim, random).draw(t).to(self.device)
        fake: Tensor = model(batch.speech, batch.speech_mask, batch.start, noise, to_unit(batch.still))[0]
        return fake

    def state(self) -> dict[str, Any]:
        """Return the moving average."""
        return {"ema": self.ema}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore the moving average."""
        for name, value in state["ema"].items():
            self.ema[name].copy_(value)

    def export(self, run: str, metrics: dict[str, float]) -> None:
        """Write the bundle of the averaged model."""
        model = self.averaged()
        if self.rank == 0:
            save_bundle(storage.join(run, "bundle"), model, self.recipe, "speech2video", self.lineage, metrics)


def make_task(context: TaskContext) -> GanTask:
    """Make the task of a worker: a generator for a distilled student, and the discriminators of the recipe.

    Raises:
        ArtifactError: there is no student, or pre-trained weights of a discriminator are missing or not usable.
    """
    if context.student is None:
        raise storage.ArtifactError(
            "the GAN needs a distilled student: run `s2v distill` and name its run with --student"
        )
    recipe = context.recipe.with_reference(context.reference)
    student, card = load_bundle(context.student, "student")
    model = Speech2Video(recipe, student.identity_dim, student.emotions)
    if recipe.gan.distilled:
        model.student.load_state_dict(student.state_dict())
    adversaries = Adversaries(recipe, student.identity_dim, len(student.emotions))
    adversaries.load_pretrained(context.corpus, recipe.gan)
    lineage = {
        "corpus": shards.read_corpus_manifest(context.corpus).get("digest", ""),
        "student": card["sha256"],
        "config_digest": recipe.digest(),
    }
    return GanTask(
        replace(context, recipe=recipe),
        model.to(context.device),
        adversaries.to(context.device),
        lineage,
        open_validators(context.corpus, context.device),
    )


def draw_seed(*key: int) -> int:
    """Return the seed of a worker's random draws in a step: stateless, and different on every worker."""
    return int(np.random.SeedSequence(key).generate_state(1)[0])


def _window_speech(batch: ClipBatch, frames: int) -> Tensor:
    """Cut out the speech of the target window, ``[B, frames * 640]``."""
    offsets = torch.arange(frames * SAMPLES_PER_FRAME, device=batch.speech.device)
    return batch.speech.gather(1, batch.start[:, None] * SAMPLES_PER_FRAME + offsets)
