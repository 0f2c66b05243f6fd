"""The GAN: one generator, several discriminators, two engines.

The order within a step, and why: the generator runs once; the discriminators learn from its detached frames, all their
losses summed into one backward; then they are frozen and called as plain modules for the generator's loss, again one
sum and one backward. Other orders lose gradients silently under ZeRO. Where a batch is split into parts
(``parallel.accumulate``), the discriminators learn from all parts before the generator meets them, as they would from the
whole: the generator draws each part twice, since keeping the graphs of all is what splitting avoids.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from s2v_ray import shards, storage
from s2v_ray.clip import ClipBatch, to_pixels, to_unit
from s2v_ray.config import Recipe
from s2v_ray.losses.distillation import aggregate_emotion
from s2v_ray.losses.reconstruction import weighted_l1
from s2v_ray.media.augment import augment
from s2v_ray.media.face import mouth_mask
from s2v_ray.media.timing import SAMPLES_PER_FRAME
from s2v_ray.models.bundle import load_bundle, save_bundle
from s2v_ray.models.generator import NoiseSequence, Speech2Video
from s2v_ray.models.judges import Judges, open_judges
from s2v_ray.models.sync import load_sync
from s2v_ray.training.engine.base import Engine, EngineFactory, check_finite, frozen, mean_over_parts
from s2v_ray.training.loggers import Sample
from s2v_ray.training.schedules import warmup_cosine
from s2v_ray.training.tasks.adversaries import Adversaries, Scene
from s2v_ray.training.validation import JUDGED_METRICS, Figures, missing_note

STILLS_A_CLIP = 2  # frames of a window that the discriminators of single frames look at


@dataclass
class Part:
    """Some clips of a step, and what was drawn for them: frames ``real`` and ``still`` in [-1, 1], ``noise``, frames to ``pick``."""

    batch: ClipBatch
    real: Tensor
    still: Tensor
    noise: Tensor
    pick: Tensor


class GanTask:
    """One step of the GAN, and what the loop needs around it."""

    def __init__(
        self,
        recipe: Recipe,
        model: Speech2Video,
        adversaries: Adversaries,
        make_engine: EngineFactory,
        device: torch.device,
        rank: int,
        lineage: dict[str, Any],
        judges: Judges | None = None,
    ) -> None:
        self.judges = judges or Judges()
        self.note = missing_note(self.judges)
        self.recipe, self.device, self.rank, self.lineage = recipe, device, rank, lineage
        self.student = model.student
        config = recipe.gan
        model.generator.checkpointing = recipe.parallel.checkpoint_activations
        frozen = {id(p) for p in model.distilled()} if config.distilled else set()
        for p in model.parameters():
            p.requires_grad_(id(p) not in frozen)
        self.mask = mouth_mask(recipe.media.size).to(device)
        self.random = torch.Generator()
        self.ema = {name: p.detach().clone().float() for name, p in model.named_parameters() if id(p) not in frozen}
        groups = [{"params": [p for p in model.parameters() if id(p) not in frozen], "name": "generator"}]
        zero: dict[str, Any] = {
            "zero_stage": recipe.parallel.zero_generator,
            "offload_param": recipe.parallel.offload_param,
        }
        self.generator = make_engine(model, groups, lr=config.lr, betas=config.betas, weight_decay=0.0, **zero)
        self.engines: dict[str, Engine] = {"generator": self.generator}
        self.discriminators: Engine | None = None
        if adversaries.items():
            groups = [{"params": list(member.parameters()), "name": name} for name, member in adversaries.items()]
            self.discriminators = make_engine(
                adversaries,
                groups,
                lr=0.0,
                betas=config.betas,
                weight_decay=0.0,
                zero_stage=recipe.parallel.zero_discriminators,
            )
            self.engines["discriminators"] = self.discriminators

    def step(self, batch: ClipBatch, step: int) -> dict[str, Tensor | float]:
        config = self.recipe.gan
        self.random.manual_seed(draw_seed(self.recipe.seed, step, self.rank))
        self.generator.set_lr("generator", warmup_cosine(step, config.steps, config.lr))
        self.generator.module.train()
        self.student.eval()  # distilled already: no dropout
        parts = self._parts(batch, step)
        whole = [self._drawn(parts[0])] if len(parts) == 1 else None
        logs = self._discriminators_step(whole or map(torch.no_grad()(self._drawn), parts), step, len(parts))
        seen = []
        for scene, fake in self._alike(whole or map(self._drawn, parts)):
            terms = {
                "reconstruction": (config.reconstruction, weighted_l1(fake, scene.frames, self.mask, config.mouth))
            }
            if self.discriminators is not None:
                with frozen(self.discriminators.module), self.discriminators.autocast():
                    terms |= self.discriminators.module.generator_losses(scene, fake, step)
            loss = sum((weight * term for weight, term in terms.values()), torch.zeros((), device=self.device))
            check_finite("generator", {name: term for name, (_, term) in terms.items()}, self.generator)
            self.generator.backward(loss / len(parts))
            ramped = {"sync_weight": terms["sync"][0] / config.discriminators.sync.weight} if "sync" in terms else {}
            seen.append(
                ramped | {"loss": loss.detach(), **{f"g_{name}": term.detach() for name, (_, term) in terms.items()}}
            )
        self.generator.step()
        self._average(step)
        return logs | mean_over_parts(seen)

    def _parts(self, batch: ClipBatch, step: int) -> list[Part]:
        """The batch in ``parallel.accumulate`` parts. What is drawn at random is drawn for the whole: it does not depend on their number."""
        real, still = self._augmented(batch, step)
        b, t = real.shape[:2]
        noise = NoiseSequence(b, self.recipe.gan.generator.noise_dim, self.random).draw(t).to(self.device)
        pick = torch.stack([torch.randperm(t, generator=self.random)[:STILLS_A_CLIP] for _ in range(b)]).to(self.device)
        clips = batch.split(self.recipe.parallel.accumulate)
        drawn = (x.split(b // len(clips)) for x in (real, still, noise, pick))
        return [Part(*part) for part in zip(clips, *drawn, strict=True)]

    def _drawn(self, part: Part) -> tuple[Scene, Tensor]:
        """What the discriminators judge by, and the frames that the generator makes."""
        fake, heard = self.generator(
            part.batch.speech, part.batch.speech_mask, part.batch.start, part.noise, part.still
        )
        return self._scene(part, heard.identity.detach()), fake

    def _alike(self, drawn: Iterable[tuple[Scene, Tensor]]) -> Iterator[tuple[Scene, Tensor]]:
        """One part after the other, each met by the discriminators as the first is: spectral norms move on at each forward."""
        buffers = [] if self.discriminators is None else list(self.discriminators.module.buffers())
        before = [b.clone() for b in buffers]
        for i, part in enumerate(drawn):
            if i:
                torch._foreach_copy_(buffers, before)
            yield part

    def _augmented(self, batch: ClipBatch, step: int) -> tuple[Tensor, Tensor]:
        """Real frames ``[B, T, 3, S, S]`` and still ``[B, 3, S, S]`` in [-1, 1], each clip's after the same draw."""
        key = (self.recipe.seed, step, self.rank)
        frames, still = (
            augment(x, self.recipe.augment, key) for x in (to_unit(batch.frames), to_unit(batch.still)[:, None])
        )
        return frames, still[:, 0]

    def _discriminators_step(
        self, drawn: Iterable[tuple[Scene, Tensor]], step: int, parts: int
    ) -> dict[str, Tensor | float]:
        if self.discriminators is None or not (learners := self.discriminators.module.learners(step)):
            return {}
        for name, member in self.discriminators.module.items():
            self.discriminators.set_lr(name, member.schedule.lr if name in learners else 0.0)
        seen = []
        for scene, fake in self._alike(drawn):
            losses: dict[str, Tensor] = self.discriminators(scene, fake.detach(), step)
            check_finite("discriminators", losses, self.discriminators)
            self.discriminators.backward(torch.stack(list(losses.values())).sum() / parts)
            seen.append({f"d_{name}": loss.detach() for name, loss in losses.items()})
        self.discriminators.step()
        return mean_over_parts(seen)

    def _scene(self, part: Part, identity: Tensor) -> Scene:
        assert part.batch.emotion is not None, "the stream must join the teachers' outputs"
        return Scene(
            frames=part.real,
            speech=_speech_under(part.batch, part.real.shape[1]),
            identity=identity,
            emotion=aggregate_emotion(part.batch.emotion, part.batch.speech_mask).softmax(-1),
            pick=part.pick,
        )

    @torch.no_grad()
    def _average(self, step: int) -> None:
        # the decay grows from 0, so that the average is not haunted by the random start
        decay = min(self.recipe.gan.ema, (step + 1) / (step + 10))
        with self.generator.gathered():
            parameters = dict(self.generator.module.named_parameters())
            torch._foreach_lerp_(
                list(self.ema.values()), [parameters[name].detach().float() for name in self.ema], 1 - decay
            )

    def averaged(self) -> Speech2Video:
        """A copy of the model that holds the moving average of its parameters."""
        with self.generator.gathered():
            weights = {name: value.detach().clone() for name, value in self.generator.module.state_dict().items()}
        with torch.random.fork_rng(devices=[]):  # its first weights are drawn for nothing
            model = Speech2Video(self.recipe, self.student.identity_dim, self.student.emotions).to(self.device)
        model.load_state_dict(weights | self.ema)
        return model.eval().requires_grad_(False)

    @torch.no_grad()
    def validate(self, batches: Iterable[ClipBatch]) -> dict[str, float]:
        """The averaged generator, by ``metrics.VALIDATION``: each worker measures its own batches, all are told of all."""
        model = self.averaged()
        figures = Figures(self.judges)
        random = torch.Generator().manual_seed(0)
        for batch in batches:
            t = batch.frames.shape[1]
            noise = (
                NoiseSequence(len(batch.frames), self.recipe.gan.generator.noise_dim, random).draw(t).to(self.device)
            )
            fake, _ = model(batch.speech, batch.speech_mask, batch.start, noise, to_unit(batch.still))
            figures.add(batch, _speech_under(batch, t), fake, self.mask)
        return figures.result()

    @torch.no_grad()
    def samples(self, batch: ClipBatch) -> list[Sample]:
        """What the averaged generator makes of a batch's speech."""
        t = batch.frames.shape[1]
        noise = (
            NoiseSequence(len(batch.frames), self.recipe.gan.generator.noise_dim, torch.Generator().manual_seed(0))
            .draw(t)
            .to(self.device)
        )
        fake, _ = self.averaged()(batch.speech, batch.speech_mask, batch.start, noise, to_unit(batch.still))
        columns = (to_pixels(fake), batch.frames, _speech_under(batch, t))
        return [Sample(name, *(c.cpu().numpy() for c in clip)) for name, *clip in zip(batch.ids, *columns, strict=True)]

    def state(self) -> dict[str, Any]:
        return {"ema": self.ema}

    def load_state(self, state: dict[str, Any]) -> None:
        for name, value in state["ema"].items():
            self.ema[name].copy_(value)

    def export(self, run: str, metrics: dict[str, float]) -> None:
        model = self.averaged()
        if self.rank == 0:
            save_bundle(storage.join(run, "bundle"), model, self.recipe, "speech2video", self.lineage, metrics)


def make_task(
    recipe: Recipe,
    corpus: str,
    *,
    student: str | None,
    reference: bool,
    make_engine: EngineFactory,
    device: torch.device,
    rank: int,
    world: int,
) -> GanTask:
    """The task of a worker: a generator for a distilled student, and the discriminators of the recipe.

    Raises:
        ArtifactError: no student, or a sync network that is missing, at chance or of another size.
    """
    if student is None:
        raise storage.ArtifactError(
            "the GAN needs a distilled student: run `s2v distill` and name its run with --student"
        )
    recipe = recipe.with_reference(reference)
    hearing, card = load_bundle(student, "student")
    model = Speech2Video(recipe, hearing.identity_dim, hearing.emotions)
    if recipe.gan.distilled:
        model.student.load_state_dict(hearing.state_dict())
    adversaries = Adversaries(recipe, hearing.identity_dim, len(hearing.emotions))
    for name, member in adversaries.items():
        if name == "sync":
            member.network.load_state_dict(load_sync(corpus, "expert", recipe.gan.sync.min_accuracy).state_dict())
    lineage = {
        "corpus": shards.read_corpus_manifest(corpus).get("digest", ""),
        "student": card["sha256"],
        "config_digest": recipe.digest(),
    }
    return GanTask(
        recipe,
        model.to(device),
        adversaries.to(device),
        make_engine,
        device,
        rank,
        lineage,
        open_judges(corpus, device, JUDGED_METRICS),
    )


def draw_seed(*key: int) -> int:
    """A seed for what a worker draws in a step: no state to be kept, and other draws on each worker, however many they are."""
    return int(np.random.SeedSequence(key).generate_state(1)[0])


def _speech_under(batch: ClipBatch, frames: int) -> Tensor:
    """``[B, frames * 640]``: the speech under the window shown."""
    samples = batch.start[:, None] * SAMPLES_PER_FRAME + torch.arange(
        frames * SAMPLES_PER_FRAME, device=batch.speech.device
    )
    return batch.speech.gather(1, samples)
