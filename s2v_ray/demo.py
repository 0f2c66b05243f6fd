"""``s2v demo``: the whole chain on the built-in corpus, from nothing to a talking face. Reads from top to bottom.

OUT/demo.json       which steps are done, and from what: a second call skips them
OUT/puppets/        videos with known truth
OUT/corpus/         shards, teachers, judges
OUT/student/        run of the distillation, with its bundle
OUT/generator/      run of the GAN, with its bundle
OUT/reference/      run of the reference baseline, where it is asked for
OUT/evaluation/     results.json, report.html, contact.png
OUT/speech.wav      a sentence that is in no clip, in the voice of the first puppet
OUT/video.mp4       the face drawn from it
"""

from __future__ import annotations

import io
import time
import wave
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np

from s2v_ray import storage
from s2v_ray.config import Recipe, digest

DEMO_SCHEMA = 1
SENTENCE = "Nobody has ever filmed me saying this"

Progress = Callable[[str], None]


def run_demo(
    out: str, recipe: Recipe, *, reference: bool = False, progress: Progress = print
) -> tuple[dict[str, str], dict[str, Any]]:
    """Runs every step that is not done yet; prints the table of metrics and the paths of what was made.

    Args:
        out: local folder. What lies there and was not made by the demo is left alone.
        reference: also train the reference baseline, for as many steps as the generator.

    Returns:
        artifacts (name to path), and ``{"steps": {name: {"seconds", "result"}}}``.

    Raises:
        ArtifactError: ``out`` cannot be written, or holds something else in the place of an artifact.
    """
    progress(f"demo: recipe {recipe.name}, into {out}; importing ...")
    from s2v_ray.evaluation.evaluate import evaluate
    from s2v_ray.evaluation.report import format_table, write_report
    from s2v_ray.inference.writer import generate_file
    from s2v_ray.ingest.ray_pipeline import ingest
    from s2v_ray.puppets.corpus import make_puppets
    from s2v_ray.teach import teach_corpus
    from s2v_ray.training.launch import launch
    from s2v_ray.training.runs import RunSpec

    def at(name: str) -> str:
        return storage.join(out, name)

    videos, corpus, evaluation, speech, video = (
        at("puppets"),
        at("corpus"),
        at("evaluation"),
        at("speech.wav"),
        at("video.mp4"),
    )
    student, generator, baseline = (
        at("student/bundle"),
        at("generator/bundle"),
        at("reference/bundle") if reference else None,
    )
    steps = Steps(out, recipe, progress)

    steps.run("puppets", ("puppets",), videos, lambda: make_puppets(videos, recipe.puppets, recipe.seed))
    steps.run("ingest", ("media", "ingest", "teachers"), corpus, lambda: ingest(videos, corpus, recipe))
    steps.run("teach", ("teach", "gan"), None, lambda: teach_corpus(corpus, recipe))
    steps.run(
        "distill",
        ("student", "distill", "parallel"),
        at("student"),
        lambda: launch(RunSpec("distill", recipe, corpus, at("student"))),
    )
    steps.run(
        "train",
        (),
        at("generator"),
        lambda: launch(RunSpec("gan", recipe, corpus, at("generator"), student)),
    )
    if reference:
        run = at("reference")
        steps.run(
            "reference",
            (),
            run,
            lambda: launch(RunSpec("gan", recipe, corpus, run, student, reference=True)),
        )
    results = steps.run(
        "evaluate",
        ("evaluate",),
        evaluation,
        lambda: evaluate(corpus, evaluation, generator, recipe, reference_bundle=baseline, progress=progress),
    )
    report = write_report(evaluation, results)
    steps.run(
        "generate",
        (),
        None,
        lambda: {"speech": _speak(speech, recipe), **asdict(generate_file(generator, speech, video))},
    )

    artifacts = {**report, "video": video, "bundle": generator}
    progress("done")
    print(format_table(results))
    for name, path in artifacts.items():
        print(f"{name:>8}: {path}")
    return artifacts, {"steps": steps.summary()}


class Steps:
    """Runs steps one after the other and remembers, in OUT/demo.json, those that are done.

    A step's key is the digest of the parts of the recipe that it is first to read, and of the key of the step before it: so a
    changed key runs that step and all later ones again, and no earlier one. Its output is noticed by its manifest: one that was
    removed or replaced is made again.
    """

    def __init__(self, out: str, recipe: Recipe, progress: Progress) -> None:
        storage.check_writable(out)
        self.out, self.recipe, self.progress = out, recipe, progress
        self.key = digest({"seed": recipe.seed, "versions": storage.versions()})
        self.done: dict[str, dict[str, Any]] = {}
        self.names: list[str] = []
        if storage.exists(storage.join(out, "demo.json")):
            record = storage.read_json(storage.join(out, "demo.json"))
            if record.get("schema") == DEMO_SCHEMA:
                self.done = record["steps"]

    def run(
        self, name: str, sections: tuple[str, ...], output: str | None, work: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        """Does ``work``, unless it is done; returns what it returned, then or now."""
        self.key = digest(
            {"step": name, "sections": self.recipe.model_dump(mode="json", include=set(sections)), "before": self.key}
        )
        self.names.append(name)
        known = self.done.get(name, {})
        if known.get("key") == self.key and known.get("made") and known["made"] == _fingerprint(output):
            self.progress(f"{name}: done before, in {known['seconds']:.0f} s")
            return known["result"]
        if output is not None and storage.exists(output):
            if not known:
                raise storage.ArtifactError(
                    f"{output} was not made by `s2v demo`: move it away, or choose another folder"
                )
            if known.get("made") or (known["key"], known.get("recipe")) != (self.key, self.recipe.digest()):
                storage.remove(
                    output
                )  # made from something else; what the very same recipe left unfinished is taken up again
        self._record(name, {"key": self.key, "recipe": self.recipe.digest()})
        self.progress(f"{name} ...")
        began = time.monotonic()
        result = work()
        seconds = time.monotonic() - began
        self._record(
            name, {"key": self.key, "made": _fingerprint(output), "seconds": round(seconds, 1), "result": result}
        )
        self.progress(f"{name}: done in {seconds:.0f} s{_headline(result)}")
        return result

    def summary(self) -> dict[str, Any]:
        return {
            name: {"seconds": self.done[name]["seconds"], "result": self.done[name]["result"]} for name in self.names
        }

    def _record(self, name: str, entry: dict[str, Any]) -> None:
        self.done[name] = entry
        storage.write_json(
            storage.join(self.out, "demo.json"), {"kind": "demo", "schema": DEMO_SCHEMA, "steps": self.done}
        )


def _fingerprint(output: str | None) -> str:
    """Digest of an artifact's manifest, or of its bundle's; "" where it is not complete."""
    if output is None:
        return "done"
    for place in (storage.join(output, "bundle"), output):
        uri = storage.join(place, storage.MANIFEST)
        if storage.exists(uri):
            return storage.sha256(storage.read_bytes(uri))[:16]
    return ""


def _speak(path: str, recipe: Recipe) -> str:
    """Writes the new sentence as a WAV file: the voice of the first puppet, the last emotion of the recipe; returns ``path``."""
    from s2v_ray.puppets.espeak import RATE
    from s2v_ray.puppets.traits import make_puppet
    from s2v_ray.puppets.voice import speak

    voice = make_puppet(recipe.seed, 0, recipe.puppets.speakers).voice
    said = speak(voice, recipe.puppets.emotions[-1], SENTENCE)
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((said.samples * 32767.0).round().astype(np.int16).tobytes())
    storage.write_bytes(path, buffer.getvalue())
    return path


def _headline(result: dict[str, Any]) -> str:
    """The plain figures of a result on one line."""
    shown = [
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in result.items()
        if isinstance(value, (int, float))
    ]
    return ": " + ", ".join(shown[:6]) if shown else ""
