"""Ablation on puppets: trains the whole method, and without one part at a time, and evaluates all in the same way.

    python -m tests.bench.ablation OUT [--recipe demo] [--steps N] [--seed N] [--rows full sync ...] [--json PATH]
    python -m tests.bench.ablation OUT --seeds 0 1 2

Rows: ``full``; ``frame``, ``mouth``, ``motion``, ``sync``, ``emotion``, each without that discriminator;
``disentangling``, whose student was distilled without the two disentangling terms; ``distillation``, where identity and
emotion are not distilled, but learnt through the GAN alone (``gan.distilled=false``). All rows have the same judges and
the same test clips. Each part has a metric of its own, on which a row without it must be worse than ``full`` by more
than the 95% interval of ``full``; where it is not, the table calls the part useless here. Steps of distillation and the
discriminators' schedules follow ``--steps`` (of the GAN) in proportion.

With ``--seeds`` only distillation runs, once for each seed on the same corpus, and its figures are printed for each.

OUT keeps everything: the corpus (that of an `s2v demo` of the same recipe and folder is taken as it is), the runs, and
a file for each finished row, which is not run again; what was cut off goes on from its checkpoints. On two cores a row
takes about 6 minutes with `demo`, a student 2, the corpus 2.5 (by the times of `make demo`): 7 rows in about 50
minutes, three seeds in about 10.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from s2v_ray import storage
from s2v_ray.config import Recipe, digest, load_recipe, parse_recipe
from s2v_ray.demo import History, Step
from s2v_ray.evaluation.student import student_figures
from s2v_ray.inference.state import SpeechCodes
from s2v_ray.metrics import VALIDATION
from s2v_ray.metrics.clip_metrics import METRICS
from s2v_ray.models.bundle import load_bundle
from s2v_ray.models.student import StudentOutput
from s2v_ray.teach import teach_corpus
from s2v_ray.training.launch import launch
from s2v_ray.training.runs import RunSpec
from tests.helpers.results import write_result

Settings = dict[str, Any]
SCHEDULED = ("frame", "mouth", "motion", "sync", "emotion")


@dataclass(frozen=True)
class Part:
    """A part of the method: settings without it, and its own metric.

    ``entangled`` rows use the student without disentangling.
    """

    without: Settings
    own: str
    entangled: bool = False


def _no(discriminator: str) -> Settings:
    return {"gan": {"discriminators": {discriminator: {"weight": 0.0}}}}


PARTS = {
    "frame": Part(_no("frame"), "cpbd"),
    "mouth": Part(_no("mouth"), "cpbd_mouth"),
    "motion": Part(_no("motion"), "movement_mouth"),
    "sync": Part(_no("sync"), "sync_confidence"),
    "emotion": Part(_no("emotion"), "emotion"),
    "disentangling": Part({}, "leak_emotion", entangled=True),
    "distillation": Part({"gan": {"distilled": False}}, "csim"),
}
ENTANGLED: Settings = {"distill": {"emotion_in_identity": 0.0, "identity_in_emotion": 0.0}}
SHOWN = (
    "psnr",
    "ssim",
    "error_mouth",
    "movement_mouth",
    "cpbd",
    "cpbd_mouth",
    "csim",
    "emotion",
    "mouth_correlation",
    "sync_confidence",
)
"""Of the test clips; ``realism`` is the validation's, at the end of training."""
STUDENT_METRICS = {
    "emotion_accuracy": ("student emotion", "higher"),
    "identity_accuracy": ("student identity", "higher"),
    "leak_emotion": ("leak emotion", "lower"),
}
STUDENT_METRICS |= {"leak_identity": ("leak identity", "lower")}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--recipe", default="demo")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="A.B=C")
    parser.add_argument("--steps", type=int, help="of the GAN; default: the recipe's")
    parser.add_argument(
        "--seed", type=int, help="of training; default: the recipe's, which is that of the corpus in any case"
    )
    parser.add_argument("--rows", nargs="+", choices=["full", *PARTS], default=["full", *PARTS])
    parser.add_argument("--seeds", nargs="+", type=int, help="distillation alone, once for each")
    parser.add_argument("--json", metavar="PATH")
    args = parser.parse_args()
    base = load_recipe(args.recipe, args.overrides)
    out = storage.absolute(args.out)
    corpus = make_corpus(out, base)
    if args.seeds:
        found = {str(seed): distilled(out, corpus, in_proportion(base, args.steps, seed), base) for seed in args.seeds}
        print_seeds(found)
    else:
        recipe = in_proportion(base, args.steps, args.seed)
        found = {name: finished(out, corpus, name, recipe, base) for name in args.rows}
        print_rows(found)
    if args.json:
        write_result(args.json, found)
    return 0


def make_corpus(out: str, recipe: Recipe) -> str:
    """The first steps of `s2v demo`, under its names: what lies there already is taken."""
    from s2v_ray.ingest.ray_pipeline import ingest
    from s2v_ray.puppets.corpus import make_puppets

    videos, corpus = storage.join(out, "puppets"), storage.join(out, "corpus")
    history = History(out, recipe)
    for step in (
        Step("puppets", ("puppets",), videos, lambda: make_puppets(videos, recipe.puppets, recipe.seed)),
        Step("ingest", ("media", "ingest", "teachers"), corpus, lambda: ingest(videos, corpus, recipe)),
        Step("teach", ("teach", "gan"), None, lambda: teach_corpus(corpus, recipe)),
    ):
        history.run(step)
    return corpus


def in_proportion(recipe: Recipe, steps: int | None, seed: int | None) -> Recipe:
    """The recipe with so many steps of the GAN, and all that is counted in steps in proportion."""
    steps = steps or recipe.gan.steps
    factor = steps / recipe.gan.steps
    schedules = {name: getattr(recipe.gan.discriminators, name) for name in SCHEDULED}
    scaled = {name: {"start": round(factor * s.start), "ramp": round(factor * s.ramp)} for name, s in schedules.items()}
    distill = max(1, round(factor * recipe.distill.steps))
    changes: Settings = {"distill": {"steps": distill}, "gan": {"steps": steps, "discriminators": scaled}}
    return changed(recipe, changes | {"seed": recipe.seed if seed is None else seed})


def changed(recipe: Recipe, settings: Settings) -> Recipe:
    def merged(old: Any, new: Any) -> Any:
        return old | {k: merged(old[k], v) for k, v in new.items()} if isinstance(new, dict) else new

    return parse_recipe(merged(recipe.model_dump(mode="json"), settings))


# ---- rows


def finished(out: str, corpus: str, name: str, recipe: Recipe, base: Recipe) -> Settings:
    """Figures of a row, from its file or made now: ``figures`` name -> mean, low, high."""
    part = PARTS.get(name, Part({}, ""))
    mine = changed(recipe, part.without)
    place = storage.join(out, "ablation", f"seed{recipe.seed}", name)

    def work() -> Settings:
        student = student_of(
            out,
            corpus,
            changed(recipe, ENTANGLED) if part.entangled else recipe,
            "entangled" if part.entangled else "student",
        )
        print(f"---- {name}", flush=True)
        trained = launch(RunSpec("gan", mine, corpus, place, student))
        from s2v_ray.evaluation.evaluate import evaluate

        results = evaluate(corpus, storage.join(place, "evaluation"), trained["bundle"], base)
        figures = dict(results["rows"]["speech only"]["values"]) | figures_of_student(results["student"])
        if "realism" in trained["metrics"]:
            figures["realism"] = {"mean": trained["metrics"]["realism"]}
        return {"figures": figures, "bars": results["bars"]}

    return kept(
        f"{place}.json", {"recipe": mine.digest(), "evaluate": base.digest(), "entangled": part.entangled}, work
    )


def kept(uri: str, made_from: Settings, work: Callable[[], Settings]) -> Settings:
    """What ``work`` returns, kept at ``uri``; read from there when it was made from the same.

    Raises:
        ArtifactError: it was made from something else.
    """
    key = digest(made_from)
    if storage.exists(uri):
        found: Settings = storage.read_json(uri)
        if found["made_from"] != key:
            raise storage.ArtifactError(
                f"{uri} was made with another recipe or other steps: name another folder, or remove it and the run "
                "beside it"
            )
        return found
    found = {"made_from": key, **work()}
    storage.write_json(uri, found)
    return found


def student_of(out: str, corpus: str, recipe: Recipe, name: str) -> str:
    """Bundle of a student, distilled now unless it is there."""
    run = storage.join(out, "ablation", f"seed{recipe.seed}", name)
    print(f"---- {name}", flush=True)
    return str(launch(RunSpec("distill", recipe, corpus, run))["bundle"])


def distilled(out: str, corpus: str, recipe: Recipe, base: Recipe) -> Settings:
    """Figures of a student of this seed."""

    def work() -> Settings:
        return {
            "figures": figures_of_student(
                student_figures(corpus, StudentEncoder(student_of(out, corpus, recipe, "student")), base)
            )
        }

    made_from = {"recipe": recipe.digest(), "evaluate": base.digest()}
    return kept(storage.join(out, "ablation", f"seed{recipe.seed}", "student.json"), made_from, work)


class StudentEncoder:
    """A student's bundle with the interface that `evaluation.student` needs."""

    def __init__(self, bundle: str) -> None:
        self.student = load_bundle(bundle, "student")[0].eval()
        self.emotions: tuple[str, ...] = self.student.emotions

    @torch.inference_mode()
    def encode_speech(self, speech: np.ndarray) -> SpeechCodes:
        output: StudentOutput = self.student(torch.from_numpy(speech)[None], content=False)
        return SpeechCodes(output.identity[0].clone(), output.emotion[0].clone(), output.emotion_logits[0].clone())


def figures_of_student(student: Settings) -> Settings:
    """Mean, low and high; the interval of a probe's accuracy is the normal one of a share of so many clips."""
    found = {name: student[name] for name in ("emotion_accuracy", "identity_accuracy") if student[name]}
    for name in ("leak_emotion", "leak_identity"):
        if probe := student[name]:
            share = probe["accuracy"]
            half = 1.96 * (share * (1 - share) / probe["clips"]) ** 0.5
            found[name] = {"mean": share, "low": share - half, "high": share + half, "chance": probe["chance"]}
    return found


# ---- tables


def heading(metric: str) -> str:
    if metric in STUDENT_METRICS:
        name, better = STUDENT_METRICS[metric]
        return name + {"higher": " ↑", "lower": " ↓"}[better]
    known = METRICS[metric].metric if metric in METRICS else VALIDATION[metric]
    return f"{known.name} {known.arrow}"


def loses(metric: str, full: Settings, without: Settings) -> bool:
    """Whether the mean without the part lies on the worse side of the interval of the whole method."""
    better = STUDENT_METRICS[metric][1] if metric in STUDENT_METRICS else METRICS[metric].metric.better
    if better == "one":
        return abs(without["mean"] - 1) > max(abs(full["low"] - 1), abs(full["high"] - 1))
    return without["mean"] < full["low"] if better == "higher" else without["mean"] > full["high"]


def print_rows(found: dict[str, Settings]) -> None:
    columns = [*SHOWN, "realism", *STUDENT_METRICS]
    print("\n| without | " + " | ".join(map(heading, columns)) + " | own metric: whole, without | verdict |")
    print("|---" * (len(columns) + 3) + "|")
    whole = found["full"]["figures"] if "full" in found else {}
    for name, row in found.items():
        figures, own, verdict = row["figures"], "", ""
        metric = PARTS[name].own if name in PARTS else ""
        if metric in whole and metric in figures:
            mean, low, high = (whole[metric][key] for key in ("mean", "low", "high"))
            own = f"{heading(metric)}: {mean:.3f} ({low:.3f} to {high:.3f}), {figures[metric]['mean']:.3f}"
            verdict = "worse" if loses(metric, whole[metric], figures[metric]) else "no effect here"
        cells = [f"{figures[c]['mean']:.3f}" if figures.get(c) else "" for c in columns]
        print(
            f"| {'nothing: the whole method' if name == 'full' else name} | "
            + " | ".join(cells)
            + f" | {own} | {verdict} |"
        )


def print_seeds(found: dict[str, Settings]) -> None:
    print("\n| seed | " + " | ".join(map(heading, STUDENT_METRICS)) + " |")
    print("|---" * (len(STUDENT_METRICS) + 1) + "|")
    for seed, row in found.items():
        figures = row["figures"]
        shown = (figures.get(c) for c in STUDENT_METRICS)
        print(
            f"| {seed} | "
            + " | ".join(f"{f['mean']:.3f} ({f['low']:.3f} to {f['high']:.3f})" if f else "" for f in shown)
            + " |"
        )


if __name__ == "__main__":
    sys.exit(main())
