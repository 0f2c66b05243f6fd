"""``s2v demo``: the whole chain on the synthetic corpus, step by step.

OUT/demo.json       which steps are done, and with which inputs: a second call skips them
OUT/puppets/        videos with known ground truth
OUT/corpus/         shards, teachers, judges
OUT/student/        run of the distillation, with its bundle
OUT/generator/      run of the GAN, with its bundle
OUT/reference/      run of the reference baseline, if requested
OUT/evaluation/     results.json, report.html, contact.png
OUT/speech.wav      a sentence that is in no clip, in the voice of the first puppet
OUT/video.mp4       the face generated from it
"""

from __future__ import annotations

import io
import logging
import time
import wave
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np

from s2v_ray import storage
from s2v_ray.config import Recipe, digest
from s2v_ray.logs import Progress, log_progress

logger = logging.getLogger(__name__)

DEMO_SCHEMA = 2
SENTENCE = "Nobody has ever filmed me saying this"

Result = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """One step of the chain.

    Attributes:
        name: its name.
        sections: sections of the recipe that no earlier step reads.
        output: folder of its artifact, or None.
        work: does it.
    """

    name: str
    sections: tuple[str, ...]
    output: str | None
    work: Callable[[], Result]


def run_demo(out: str, recipe: Recipe, *, reference: bool = False) -> tuple[dict[str, str], Result]:
    """Run every step that is not done yet; print the table of metrics and the paths of the artifacts.

    Args:
        out: local folder. Files there that the demo did not make are not touched.
        recipe: the recipe.
        reference: also train the reference baseline, for as many steps as the generator.

    Returns:
        artifacts (name to path), and ``{"steps": {name: {"seconds", "result"}}}``.

    Raises:
        ArtifactError: ``out`` cannot be written, or another artifact is in the place of one of the demo's.
    """
    logger.info("demo: recipe %s, into %s; importing ...", recipe.name, out)
    from s2v_ray.evaluation.report import format_table, write_report
    from s2v_ray.evaluation.results import Results
    from s2v_ray.publishing.cards import write_card
    from s2v_ray.publishing.tracked import describe_evaluation
    from s2v_ray.tracking.entries import publish

    history = History(out, recipe)
    steps = _steps(out, recipe, reference)
    results = {}
    for i, step in enumerate(steps):
        log_progress(logger, Progress("demo", i, len(steps)), "%s ...", step.name)
        results[step.name] = history.run(step)
    log_progress(logger, Progress("demo", len(steps), len(steps)), "done")
    evaluated = cast(Results, results["evaluate"])
    report = write_report(storage.join(out, "evaluation"), evaluated)
    artifacts = {**report, "video": storage.join(out, "video.mp4"), "bundle": storage.join(out, "generator/bundle")}
    artifacts["card"] = write_card(artifacts["bundle"], storage.join(out, "evaluation"))
    publish(recipe.log.loggers, describe_evaluation(storage.join(out, "evaluation"), evaluated, report, recipe))
    print(format_table(evaluated))
    for name, path in artifacts.items():
        print(f"{name:>8}: {path}")
    return artifacts, {"steps": history.summary()}


def _steps(out: str, recipe: Recipe, reference: bool) -> list[Step]:
    """Return the chain."""
    from s2v_ray.evaluation.evaluate import evaluate
    from s2v_ray.inference.writer import generate_file
    from s2v_ray.ingest.ray_pipeline import ingest
    from s2v_ray.puppets.corpus import make_puppets
    from s2v_ray.teach import teach_corpus
    from s2v_ray.training.launch import launch
    from s2v_ray.training.runs import RunSpec

    def at(name: str) -> str:
        return storage.join(out, name)

    videos, corpus, evaluation = at("puppets"), at("corpus"), at("evaluation")
    student, generator = at("student/bundle"), at("generator/bundle")
    baseline = at("reference/bundle") if reference else None
    distillation = RunSpec("distill", recipe, corpus, at("student"))
    gan = RunSpec("gan", recipe, corpus, at("generator"), student)
    reference_gan = RunSpec("gan", recipe, corpus, at("reference"), student, reference=True)

    def generate() -> Result:
        speech = _speak(at("speech.wav"), recipe)
        return {"speech": speech, **asdict(generate_file(generator, speech, at("video.mp4")))}

    steps = [
        Step("puppets", ("puppets",), videos, lambda: make_puppets(videos, recipe.puppets, recipe.seed)),
        Step("ingest", ("media", "ingest", "teachers"), corpus, lambda: ingest(videos, corpus, recipe)),
        Step("teach", ("teach", "gan"), None, lambda: teach_corpus(corpus, recipe)),
        Step("distill", ("student", "distill", "parallel"), distillation.run, lambda: launch(distillation)),
        Step("train", (), gan.run, lambda: launch(gan)),
    ]
    if reference:
        steps.append(Step("reference", (), reference_gan.run, lambda: launch(reference_gan)))
    return [
        *steps,
        Step(
            "evaluate",
            ("evaluate",),
            evaluation,
            lambda: dict(evaluate(corpus, evaluation, generator, recipe, baseline)),
        ),
        Step("generate", (), None, generate),
    ]


class History:
    """Runs steps and records in OUT/demo.json which are done.

    The key of a step is the digest of the sections of the recipe that it is the first to read, and of the key of the
    previous step. So a changed setting runs that step and all later ones again, but no earlier one. An artifact that
    was removed or replaced is recognised by its manifest and made again.

    Args:
        out: folder of the demo.
        recipe: the recipe.
    """

    def __init__(self, out: str, recipe: Recipe) -> None:
        storage.check_writable(out)
        self.out, self.recipe = out, recipe
        self.key = digest({"seed": recipe.seed, "versions": storage.versions()})
        self.done: dict[str, Result] = {}
        self.names: list[str] = []
        if storage.exists(storage.join(out, "demo.json")):
            record = storage.read_json(storage.join(out, "demo.json"))
            if record.get("schema") == DEMO_SCHEMA:
                self.done = record["steps"]

    def run(self, step: Step) -> Result:
        """Run a step unless it is done; return its result, also of an earlier call."""
        sections = self.recipe.model_dump(mode="json", include=set(step.sections))
        self.key = digest({"step": step.name, "sections": sections, "before": self.key})
        self.names.append(step.name)
        known = self.done.get(step.name, {})
        if known.get("key") == self.key and known.get("made") and known["made"] == _fingerprint(step.output):
            logger.info("%s: done before, in %.0f s", step.name, known["seconds"])
            earlier: Result = known["result"]
            return earlier
        self._remove_stale(step, known)
        self._record(step.name, {"key": self.key, "recipe": self.recipe.digest()})
        began = time.monotonic()
        result = step.work()
        seconds = time.monotonic() - began
        made = _fingerprint(step.output)
        self._record(step.name, {"key": self.key, "made": made, "seconds": round(seconds, 1), "result": result})
        logger.info("%s: done in %.0f s%s", step.name, seconds, _headline(result))
        return result

    def summary(self) -> Result:
        """Return seconds and result of every step that ran."""
        return {
            name: {"seconds": self.done[name]["seconds"], "result": self.done[name]["result"]} for name in self.names
        }

    def _remove_stale(self, step: Step, known: Result) -> None:
        """Remove an artifact that was made with other inputs. One that the same recipe left unfinished is continued."""
        if step.output is None or not storage.exists(step.output):
            return
        if not known:
            raise storage.ArtifactError(
                f"{step.output} was not made by `s2v demo`: move it away, or choose another folder"
            )
        if known.get("made") or (known["key"], known.get("recipe")) != (self.key, self.recipe.digest()):
            storage.remove(step.output)

    def _record(self, name: str, entry: Result) -> None:
        self.done[name] = entry
        storage.write_json(
            storage.join(self.out, "demo.json"), {"kind": "demo", "schema": DEMO_SCHEMA, "steps": self.done}
        )


def _fingerprint(output: str | None) -> str:
    """Return the digest of an artifact's manifest, or of its bundle's; "" if it is not complete."""
    if output is None:
        return "done"
    for place in (storage.join(output, "bundle"), output):
        uri = storage.join(place, storage.MANIFEST)
        if storage.exists(uri):
            return storage.sha256(storage.read_bytes(uri))[:16]
    return ""


def _speak(path: str, recipe: Recipe) -> str:
    """Write the new sentence as a WAV file in the voice of the first puppet and the last emotion; return ``path``."""
    from s2v_ray.puppets.espeak import RATE
    from s2v_ray.puppets.traits import make_puppet
    from s2v_ray.puppets.voice import speak

    voice = make_puppet(recipe.seed, 0, recipe.puppets.speakers).voice
    speech = speak(voice, recipe.puppets.emotions[-1], SENTENCE)
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((speech.samples * 32767.0).round().astype(np.int16).tobytes())
    storage.write_bytes(path, buffer.getvalue())
    return path


def _headline(result: Result) -> str:
    """Format the numbers of a result on one line."""
    shown = [
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in result.items()
        if isinstance(value, (int, float))
    ]
    return ": " + ", ".join(shown[:6]) if shown else ""
