"""The GAN: one generator, several discriminators, two engines.

Order within a step, and its reason: the generator runs once; the discriminators learn from its detached frames, all
their losses summed into one backward; then they are frozen and called as plain modules for the generator's loss, again
one sum and one backward. Other orders silently lose gradients under ZeRO. If a batch is split into micro-batches
(``parallel.accumulate``), the discriminators learn from all of them before the generator's loss is computed, as they
would from the whole batch: the generator runs twice on each micro-batch, so that the graphs of all are not kept.
"""

from __future__ import annotations

import functools
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
from s2v_ray.media.regions import eye_mask, mouth_mask
from s2v_ray.media.timing import SAMPLES_PER_FRAME
from s2v_ray.models.bundle import load_bundle, save_bundle
from s2v_ray.models.generator import ClipCodes
from s2v_ray.models.judges import Judges, open_validators
from s2v_ray.models.speech2video import Speech2Video, TrainingInputs, TrainingOutputs
from s2v_ray.provenance import describe_corpus
from s2v_ray.training.average import MovingAverage
from s2v_ray.training.balance import GradientBalance
from s2v_ray.training.engine import Engine, NonFiniteLossError, OptimizerConfig, check_finite, frozen
from s2v_ray.training.engine.state import Sharded
from s2v_ray.training.loggers import Sample
from s2v_ray.training.priors import fill_priors
from s2v_ray.training.schedules import warmup_cosine
from s2v_ray.training.shares import Shares
from s2v_ray.training.tasks.adversaries import Adversaries, DiscriminatorInputs
from s2v_ray.training.tasks.context import TaskContext
from s2v_ray.training.validation import Figures, missing_note

FRAMES_PER_CLIP = 2
"""Target frames of a clip that the discriminators of single frames use."""
RECONSTRUCTION = "reconstruction"
Scalars = dict[str, Tensor | float]


@dataclass
class MicroBatch:
    """Some clips of a step and their random draws.

    Attributes:
        batch: the clips.
        inputs: of the model.
        frame_indices: ``[B, n]``, frames for the discriminators of single frames.
        first: position of the first clip in the step's batch.
    """

    batch: ClipBatch
    inputs: TrainingInputs
    frame_indices: Tensor
    first: int


@dataclass
class Generated:
    """Output of the model for a micro-batch, with what the discriminators need.

    Attributes:
        inputs: the real frames and their conditions.
        made: output of the model.
    """

    inputs: DiscriminatorInputs
    made: TrainingOutputs


class GanTask:
    """The GAN's step, and what the trainer needs around it.

    Args:
        context: recipe, engines, device and rank.
        model: student and generator.
        adversaries: the discriminators.
        lineage: digests of the artifacts that the model is made from.
        judges: networks of the validation; None for none.
    """

    def __init__(
        self,
        context: TaskContext,
        model: Speech2Video,
        adversaries: Adversaries,
        lineage: dict[str, Any],
        judges: Judges | None = None,
    ) -> None:
        self.recipe, self.device, self.rank, self.corpus = context.recipe, context.device, context.rank, context.corpus
        self.lineage, self.judges = lineage, judges or Judges()
        self.note = missing_note(self.judges)
        self.alarms, self.diagnostics = adversaries.alarms, adversaries.diagnostics
        self.student = model.student
        self.mask = mouth_mask(self.recipe.media.size).to(self.device)
        self.eyes = eye_mask(self.recipe.media.size).to(self.device)
        self.random, self.shares = torch.Generator(), Shares(((0,),), 0)
        self.balance = GradientBalance(RECONSTRUCTION)
        config, parallel = self.recipe.gan, self.recipe.parallel
        model.generator.checkpointing = parallel.checkpoint_activations
        fixed = {id(p) for p in model.distilled()} if config.distilled else set()
        for p in model.parameters():
            p.requires_grad_(id(p) not in fixed)
        self.generator = context.make_engine(
            model,
            [{"params": [p for p in model.parameters() if id(p) not in fixed], "name": "generator"}],
            OptimizerConfig(config.lr, config.betas),
            zero_stage=parallel.zero_generator,
            offload_param=parallel.offload_param,
        )
        self.average = MovingAverage(self.generator)
        self.engines: dict[str, Engine] = {"generator": self.generator}
        self.discriminators: Engine | None = None
        if adversaries.items():
            groups = [{"params": list(member.parameters()), "name": name} for name, member in adversaries.items()]
            optimizer = OptimizerConfig(0.0, config.betas)  # each group's rate is set in every step
            self.discriminators = context.make_engine(
                adversaries, groups, optimizer, zero_stage=parallel.zero_discriminators
            )
            self.engines["discriminators"] = self.discriminators
        self.sharded: dict[str, Sharded] = {**self.engines, "average": self.average}

    def step(self, batch: ClipBatch, step: int) -> Scalars:
        """Update the discriminators that are due, then the generator."""
        config = self.recipe.gan
        self.random.manual_seed(draw_seed(self.recipe.seed, step, self.rank))
        self.generator.set_lr("generator", warmup_cosine(step, config.steps, config.lr))
        self._set_modes()
        micro_batches = self._micro_batches(batch, step)
        self.shares = Shares.of_workers([len(part.batch.speech) for part in micro_batches], self.shares)
        whole = [self._generate(micro_batches[0], step)] if len(micro_batches) == 1 else None
        generate = functools.partial(self._generate, step=step)
        scalars = self._update_discriminators(whole or map(torch.no_grad()(generate), micro_batches), step)
        parts = []
        for i, generated in enumerate(self._with_same_buffers(whole or map(generate, micro_batches))):
            terms, latent = self._frame_terms(generated, step), self._latent_terms(generated.made, step)
            values = {name: value for name, (_, value) in (terms | latent).items()}
            self._check_finite(values)
            versions = generated.made.versions
            # Each term's gradient on the frames is scaled first; this loss has the sum as its gradient there.
            loss = (versions * self.balance.combine(versions, terms)).sum()
            loss = loss + sum(weight * value for weight, value in latent.values())
            self.generator.backward(loss * self.shares.weight(i))
            parts.append({f"g_{name}": value.detach() for name, value in values.items()})
        self.generator.step()
        self.balance.update()
        # The decay grows from 0, so that the random initialisation does not remain in the average.
        self.average.update(min(config.ema, (step + 1) / (step + 10)))
        return scalars | self.shares.mean(parts)

    def _set_modes(self) -> None:
        """Set dropout and perturbation: in the content encoder, not in the encoders of identity and emotion."""
        self.generator.module.train()
        self.student.identity.eval()
        self.student.emotion.eval()
        self.student.perturb_content = self.recipe.gan.perturb

    def _frame_terms(self, generated: Generated, step: int) -> dict[str, tuple[float, Tensor]]:
        """Weight and value of each term that is computed from the generated frames."""
        config, inputs, made = self.recipe.gan, generated.inputs, generated.made
        own = inputs.paired
        # Without the noise, which this loss would remove, because it cannot be that of the recording.
        weight = 1.0 + config.mouth * self.mask + config.eyes * self.eyes
        error = weighted_l1(made.clean[own], inputs.frames[own], weight)
        terms = {RECONSTRUCTION: (config.reconstruction, error)}
        if self.discriminators is not None:
            with frozen(self.discriminators.module), self.discriminators.autocast():
                terms |= self.discriminators.module.generator_losses(inputs, made.frames, step)
        return terms

    def _latent_terms(self, made: TrainingOutputs, step: int) -> dict[str, tuple[float, Tensor]]:
        """Weight and value of the terms of the latents."""
        config = self.recipe.gan.latent
        ramp = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
        if step >= config.start:
            ramp *= config.sampled_kl
        return {
            "take": (config.regression, made.take_error),
            "kl_take": (ramp * config.kl_take, made.kl_take),
            "kl_motion": (ramp * config.kl_motion, made.kl_motion),
        }

    def _check_finite(self, values: dict[str, Tensor]) -> None:
        try:
            check_finite("generator", values, self.generator)
        except NonFiniteLossError:
            self.balance.discard()
            raise

    def _update_discriminators(self, generated: Iterable[Generated], step: int) -> Scalars:
        """Update the discriminators that are due at ``step`` on generated frames of all micro-batches."""
        if self.discriminators is None:
            return {}
        adversaries: Adversaries = self.discriminators.module
        scalars: Scalars = {**adversaries.scalars(step)}
        updated = adversaries.updated_at(step)
        if not updated:
            return scalars
        # The rates fall as the generator's does, which would otherwise be overtaken at the end.
        decay = warmup_cosine(step, self.recipe.gan.steps, 1.0)
        for name, member in adversaries.items():
            self.discriminators.set_lr(name, decay * member.schedule.lr if name in updated else 0.0)
        parts = []
        for i, part in enumerate(self._with_same_buffers(generated)):
            losses: dict[str, Tensor] = self.discriminators(part.inputs, part.made.frames.detach(), step)
            check_finite("discriminators", losses, self.discriminators)
            self.discriminators.backward(torch.stack(list(losses.values())).sum() * self.shares.weight(i))
            parts.append({f"d_{name}": loss.detach() for name, loss in losses.items()})
        self.discriminators.step()
        return scalars | self.shares.mean(parts)

    def _micro_batches(self, batch: ClipBatch, step: int) -> list[MicroBatch]:
        """Split the batch into ``parallel.accumulate`` parts. Random draws are made for the whole batch."""
        config, random = self.recipe.gan.generator, self.random
        b, t = batch.frames.shape[:2]
        parts = batch.split(self.recipe.parallel.accumulate)
        sizes = [len(part.frames) for part in parts]
        white_take = torch.randn(b, config.take_size(batch.frames.shape[2]), generator=random)
        white_motion = torch.randn(b, t, config.motion_dim, generator=random)
        noise = torch.randn(b, t, 1, *batch.frames.shape[2:4], generator=random)
        indices = torch.stack([torch.randperm(t, generator=random)[:FRAMES_PER_CLIP] for _ in range(b)])
        sampled = torch.cat([self._draw_sampled(clips, step) for clips in sizes])
        draws = [x.to(self.device).split(sizes) for x in (sampled, white_take, white_motion, noise, indices)]
        return [
            MicroBatch(
                part,
                TrainingInputs(
                    part.speech, part.speech_mask, part.index, to_unit(part.frames), to_unit(part.references), *white
                ),
                frame_indices,
                sum(sizes[:i]),
            )
            for i, (part, *white, frame_indices) in enumerate(zip(parts, *draws, strict=True))
        ]

    def _draw_sampled(self, clips: int, step: int) -> Tensor:
        """Choose the clips of a part that get the take of another clip, bool ``[clips]``; never all of them."""
        latent = self.recipe.gan.latent
        order = torch.randperm(clips, generator=self.random)
        return order < (int(latent.sampled * clips) if step >= latent.start else 0)

    def _generate(self, part: MicroBatch, step: int) -> Generated:
        """Run the model on a micro-batch."""
        made: TrainingOutputs = self.generator(part.inputs)
        return Generated(self._inputs(part, made.identity.detach(), step), made)

    def _inputs(self, part: MicroBatch, identity: Tensor, step: int) -> DiscriminatorInputs:
        assert part.batch.emotion is not None, "the stream must join the teachers' outputs"
        return DiscriminatorInputs(
            frames=part.inputs.frames,
            speech=_window_speech(part.batch, part.inputs.frames.shape[1]),
            identity=identity,
            emotion=aggregate_emotion(part.batch.emotion, part.batch.speech_mask).softmax(-1),
            frame_indices=part.frame_indices,
            consecutive=part.batch.consecutive,
            paired=~part.inputs.sampled,
            key=(self.recipe.seed, step, self.rank),
            first=part.first,
        )

    def _with_same_buffers(self, generated: Iterable[Generated]) -> Iterator[Generated]:
        """Yield each micro-batch with the discriminators' initial buffers: spectral norm changes them in a forward."""
        buffers = [] if self.discriminators is None else list(self.discriminators.module.buffers())
        before = [b.clone() for b in buffers]
        for i, part in enumerate(generated):
            if i:
                torch._foreach_copy_(buffers, before)
            yield part

    def averaged(self) -> Speech2Video:
        """Return a copy of the model with the moving average of its parameters."""
        with self.generator.gathered_parameters():
            weights = {name: value.detach().clone() for name, value in self.generator.module.state_dict().items()}
        average = self.average.gathered()
        with torch.random.fork_rng(devices=[]):  # the initialisation is overwritten
            model = Speech2Video(self.recipe, self.student.identity_dim, self.student.emotions).to(self.device)
        model.load_state_dict(weights | average)
        return model.eval().requires_grad_(False)

    @torch.no_grad()
    def validate(self, batches: Iterable[ClipBatch]) -> dict[str, float]:
        """Measure the averaged generator (``metrics.VALIDATION``) on the batches of all workers."""
        model, figures = self.averaged(), Figures(self.judges)
        for batch in batches:
            fake = self._draw(model, batch)
            figures.add(batch, _window_speech(batch, batch.frames.shape[1]), fake, self.mask)
        return figures.result()

    @torch.no_grad()
    def samples(self, batch: ClipBatch) -> list[Sample]:
        """Generate from a batch's speech with the averaged generator."""
        fake = self._draw(self.averaged(), batch)
        columns = (to_pixels(fake), batch.frames, _window_speech(batch, batch.frames.shape[1]))
        return [Sample(name, *(c.cpu().numpy() for c in clip)) for name, *clip in zip(batch.ids, *columns, strict=True)]

    def _draw(self, model: Speech2Video, batch: ClipBatch) -> Tensor:
        """Generate the frames of a batch, ``[B, T, 3, S, S]``, with the take of a reference frame and no motion."""
        b, t, size = batch.frames.shape[:3]
        codes = model.student(batch.speech, batch.speech_mask)
        content = codes.content_at(batch.index)
        reference = to_unit(batch.references[:, 0])
        still = reference if model.reference else None
        clip_codes = ClipCodes(codes.identity, codes.emotion, model.take_of(reference), still)
        motion = content.new_zeros(b, t, self.recipe.gan.generator.motion_dim)
        noise = torch.randn(b, t, 1, size, size, generator=torch.Generator().manual_seed(self.recipe.seed))
        fake: Tensor = model.generator(clip_codes, content, motion, noise.to(content.device))
        return fake

    def state(self) -> dict[str, Any]:
        """Return the moving averages of gradient norms."""
        return {"gradient_squares": self.balance.squares}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore the moving averages."""
        self.balance.squares = dict(state["gradient_squares"])

    def export(self, run: str, metrics: dict[str, float]) -> None:
        """Write the bundle of the averaged model, with the priors of takes and motion."""
        model = self.averaged()
        if self.rank == 0:
            fill_priors(model, self.corpus, self.recipe, self.device)
            uri, about = storage.join(run, "bundle"), describe_corpus(self.corpus)
            save_bundle(uri, model, self.recipe, "speech2video", self.lineage, metrics, about)


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
    end = batch.speech.shape[1] - 1  # spread frames may leave less speech than that; only consecutive ones use it
    return batch.speech.gather(1, (batch.index[:, :1] * SAMPLES_PER_FRAME + offsets).clamp(max=end))
