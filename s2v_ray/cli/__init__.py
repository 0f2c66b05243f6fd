"""The command line: ``s2v COMMAND``. Each command loads a recipe, calls one function of one module, and says what came out.

Everything heavy is imported inside the commands, so that ``--help`` is quick and ``generate`` never imports ray.

Exit status: 0 done; 1 one sentence on stderr says what is wrong; 2 wrong usage; 130 interrupted. ``S2V_DEBUG=1`` shows tracebacks.

``--json PATH`` writes ``{"command", "version", "recipe", "config_digest", "seconds", "artifacts", "result"}``: ``artifacts`` maps the
name of each thing that was written to its URI, ``result`` holds the command's own keys, which ``s2v COMMAND --help`` lists. Keys are
added over time, never renamed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from s2v_ray import config, logs, storage

if TYPE_CHECKING:
    import numpy as np

Outcome = tuple[dict[str, str], dict[str, Any]]
"""Artifacts (name to URI), and the command's result."""


class Progress:
    """Prints lines with the seconds since the command began."""

    def __init__(self) -> None:
        self.began = time.monotonic()

    def __call__(self, line: object) -> None:
        print(f"[{self.seconds:7.1f} s] {storage.scrub(str(line))}", flush=True)

    def handler(self) -> logging.Handler:
        """A handler that prints log records as such lines."""
        handler = logging.Handler()
        handler.emit = lambda record: self(record.getMessage())  # type: ignore[method-assign]  # until the console has its own
        return handler

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    args = _parser().parse_args(argv)
    progress = Progress()
    try:
        recipe = config.load_recipe(args.recipe, args.set) if "recipe" in args else None
        if args.json:
            storage.check_writable(storage.absolute(args.json).rpartition("/")[0])
        with logs.installed(progress.handler()):
            artifacts, result = args.run(args, recipe, progress)
        if args.json:
            _write_json(args, recipe, progress.seconds, artifacts, result)
        return 1 if args.failed(result) else 0
    except KeyboardInterrupt:
        print("s2v: interrupted", file=sys.stderr)
        return 130
    except Exception as e:
        if os.environ.get("S2V_DEBUG") == "1" or not _is_users(e):
            raise
        print(f"s2v: error: {storage.scrub(_sentence(e))}", file=sys.stderr)
        return 1


def puppets(args: argparse.Namespace, recipe: config.Recipe, progress: Progress) -> Outcome:
    """Make the built-in corpus whose truth is known: espeak-ng voices and drawn faces, as ordinary MP4 files.

    JSON result: clips, speakers, emotions, sentences, frames, seconds (of video), wall_seconds, uri.
    """
    from s2v_ray.puppets.corpus import make_puppets

    out = storage.absolute(args.out)
    return {"puppets": out}, make_puppets(out, recipe.puppets, recipe.seed)


def ingest(args: argparse.Namespace, recipe: config.Recipe, progress: Progress) -> Outcome:
    """Turn video files into a corpus: decode, align the faces, split, write shards. What cannot be used is counted by reason.

    JSON result: the corpus's manifest (clips by split, speakers, emotions, rejects by reason).
    """
    from s2v_ray.ingest.ray_pipeline import ingest as run

    corpus = storage.absolute(args.corpus)
    return {"corpus": corpus}, run(storage.absolute(args.source), corpus, recipe)


def offsets(args: argparse.Namespace, recipe: None, progress: Progress) -> Outcome:
    """Measure by how many frames sound and picture of a corpus are out of step, by source, speaker and clip.

    --sync names a sync network that was trained on another corpus, one that is in step (puppets are): trained on recordings with a constant
    offset, a network takes that offset for being in step, and finds 0. Correct with
    s2v ingest SOURCE CORPUS2 --set ingest.offsets=OUT --set ingest.offset=source (or speaker, or clip).

    JSON result: source and speakers (frames, confidence, distance, clips of each; frames above 0: the sound comes late), clips (offset to
    number of files), short (clips too short to tell).
    """
    from s2v_ray import shards
    from s2v_ray.ingest.offsets import format_table, measure_corpus
    from s2v_ray.models.sync import open_sync

    corpus, out = storage.absolute(args.corpus), storage.absolute(args.out)
    network, digest = open_sync(storage.absolute(args.sync), size=shards.read_corpus_manifest(corpus)["size"])
    report = measure_corpus(corpus, out, network, digest, args.max_offset)
    print(format_table(report))
    return {"offsets": out}, report.to_dict()


def teach(args: argparse.Namespace, recipe: config.Recipe, progress: Progress) -> Outcome:
    """Train the teachers and judges that the recipe does not name, and store what the teachers see in each clip.

    JSON result: networks (place in the corpus to figures on unseen clips), skipped (place to reason), sync and sync_expert (accuracy),
    annotations (by teacher), seconds.
    """
    from s2v_ray.teach import teach_corpus

    corpus = storage.absolute(args.corpus)
    return {"teachers": storage.join(corpus, "teachers"), "judges": storage.join(corpus, "judges")}, teach_corpus(
        corpus, recipe
    )


def distill(args: argparse.Namespace, recipe: config.Recipe, progress: Progress) -> Outcome:
    """Distil the teachers into the student, which only hears. No label of the corpus is used.

    JSON result: run, bundle, steps, metrics (the last training record and the validation's).
    """
    from s2v_ray.training.launch import launch
    from s2v_ray.training.runs import RunSpec

    run = storage.absolute(args.run_uri)
    result = launch(RunSpec("distill", recipe, args.corpus, run))
    return {"run": run, "bundle": storage.join(run, "bundle")}, result


def train(args: argparse.Namespace, recipe: config.Recipe, progress: Progress) -> Outcome:
    """Train the generator against its discriminators; --reference trains the baseline that also sees a still of the speaker.

    JSON result: run, bundle, steps, metrics (the last training record and the validation's).
    """
    from s2v_ray.training.launch import launch
    from s2v_ray.training.runs import RunSpec

    run = storage.absolute(args.run_uri)
    student = bundle_of(args.student)
    result = launch(RunSpec("gan", recipe, args.corpus, run, student, args.reference))
    return {"run": run, "bundle": storage.join(run, "bundle")}, result


def evaluate(args: argparse.Namespace, recipe: config.Recipe, progress: Progress) -> Outcome:
    """Measure a bundle on held-out speech, beside real clips, the still frame and the reference baseline.

    JSON result: rows (row to values, metric to mean and 95% interval), student, bars, contrast, metrics (name to better, unit), and what it was measured on.
    """
    from s2v_ray.evaluation.evaluate import evaluate as run
    from s2v_ray.evaluation.report import format_table, write_report

    out = storage.absolute(args.out)
    reference = bundle_of(args.reference_bundle) if args.reference_bundle else None
    results = run(
        storage.absolute(args.corpus),
        out,
        bundle_of(args.bundle),
        recipe,
        reference_bundle=reference,
        progress=progress,
    )
    artifacts = write_report(out, results)
    print(format_table(results))
    for name, uri in artifacts.items():
        print(f"{name}: {uri}")
    return artifacts, results


def tune(args: argparse.Namespace, recipe: config.Recipe, progress: Progress) -> Outcome:
    """Try what a space says: loss weights, schedules of discriminators, ... Each trial is a whole training run; a rule in the space picks the winner.

    s2v tune CORPUS SWEEP --space FILE      runs the trials, shows them, and writes SWEEP/report.html
    s2v tune report SWEEP                   shows and writes that again, of a sweep that runs, too

    --resume goes on with a sweep that was cut off, with the same space and recipe: no finished trial runs again, an unfinished one goes on
    from its checkpoint. Then: s2v export --best SWEEP -o BUNDLE. Exit status 1 where no trial has finished.

    JSON result: sweep, trials (by state), reasons (why trials ended early), steps, pareto, winner, run, params, scores.
    """
    from s2v_ray.tuning.report import format_table, write_report
    from s2v_ray.tuning.trials import open_sweep, summary

    uri = storage.absolute(args.sweep)
    if args.space:
        from s2v_ray.tuning.space import load_space
        from s2v_ray.tuning.sweep import run_sweep

        space = load_space(args.space, recipe)
        student = bundle_of(args.student) if args.student else None
        result = run_sweep(uri, space, recipe, args.corpus, student=student, resume=args.resume, progress=progress)
    elif args.corpus == "report":
        sweep = open_sweep(uri)
        result = summary(sweep, sweep.trials())
    else:
        raise ValueError(
            "s2v tune needs --space FILE, one of tune_spaces/ or your own; `s2v tune report SWEEP` shows a sweep"
        )
    sweep = open_sweep(uri)
    artifacts = {"sweep": uri, **write_report(sweep)}
    print(format_table(sweep))
    print(f"report: {artifacts['report']}")
    return artifacts, result


def generate(args: argparse.Namespace, recipe: None, progress: Progress) -> Outcome:
    """Speech in (WAV, FLAC, MP3, or the sound of a video), talking face out (MP4), marked as synthetic.

    The recipe is the bundle's own. With --face and --teacher, the face in the picture stands in for the voice (the seen identity); a
    reference bundle takes --face alone.

    JSON result: output, frames, seconds (of video), elapsed (seconds of work), realtime_factor (above 1: faster than real time).
    """
    from s2v_ray.inference.predictor import Predictor
    from s2v_ray.inference.writer import generate_file

    predictor = Predictor(bundle_of(args.bundle), args.device)
    face = _read_face(args, predictor.size) if args.face else None
    codes: dict[str, Any] = {}
    if args.teacher:
        from s2v_ray.models.teachers import load

        if face is None or predictor.reference:
            raise ValueError("--teacher goes with --face and a bundle that is not a reference baseline")
        codes["identity"] = load(storage.absolute(args.teacher))(face[None])[0]
    elif face is not None and not predictor.reference:
        raise ValueError("--face needs --teacher CORPUS/teachers/identity, whose code of the face is the seen identity")
    else:
        codes["still"] = face
    result = generate_file(predictor, args.speech, args.output, **codes, emotion=args.emotion, seed=args.seed)
    progress(f"wrote {args.output}: {result.seconds:.1f} s of video in {result.elapsed:.1f} s")
    return {"video": args.output}, asdict(result)


def export(args: argparse.Namespace, recipe: None, progress: Progress) -> Outcome:
    """Write beside a bundle the file that `serve deploy` takes: an endpoint of it on a cluster.

    s2v export BUNDLE                       of a bundle, or of a run's
    s2v export --best SWEEP -o BUNDLE       first makes the bundle, of a sweep's winner; its card says where it comes from. A student is not served.

    JSON result: serve (URI of the file), bundle; with --best also trial, scores and lineage (sweep, trial, values, digests of recipe and corpus).
    """
    from s2v_ray.serving.deploy import write_serve_config

    if bool(args.best) == bool(args.bundle) or bool(args.best) != bool(args.output):
        raise ValueError("s2v export takes a bundle, or --best SWEEP with -o BUNDLE")
    best: dict[str, Any] = {}
    if args.best:
        from s2v_ray.tuning.export import export_best
        from s2v_ray.tuning.trials import open_sweep

        sweep = open_sweep(storage.absolute(args.best))
        best = export_best(sweep, storage.absolute(args.output))
        progress(f"the bundle of trial {best['trial']} is at {best['bundle']}")
        if sweep.space.task == "distill":
            return {"bundle": best["bundle"]}, best
    bundle = bundle_of(args.output if args.best else args.bundle)
    uri = write_serve_config(bundle, host=args.host, port=args.port, **_endpoint_settings(args))
    progress(f"wrote {uri}: `serve deploy` takes it")
    return {"serve": uri, "bundle": bundle}, {**best, "serve": uri, "bundle": bundle}


def serve(args: argparse.Namespace, recipe: None, progress: Progress) -> Outcome:
    """Serve a bundle on this machine: an HTTP API, a page to talk to it at /, and a user study at /study. Ctrl-C ends it.

    Only this machine can reach it unless --host says otherwise; then demand a token: --token-env NAME, with the token in that variable.

    JSON result: address.
    """
    import tempfile

    from s2v_ray.models.bundle import read_card
    from s2v_ray.serving.app import serve_until_interrupted
    from s2v_ray.serving.settings import parse_settings

    if args.host not in ("127.0.0.1", "::1", "localhost") and not args.token_env:
        progress(f"anybody who reaches {args.host} can use this endpoint: demand a token with --token-env")
    with tempfile.TemporaryDirectory(prefix="s2v-jobs-") as folder:
        settings = parse_settings({"bundle": bundle_of(args.bundle), "jobs": folder} | _endpoint_settings(args))
        for uri in settings.uris().values():
            read_card(uri, "speech2video")
        address = f"http://{args.host}:{args.port}"
        serve_until_interrupted(
            settings, args.host, args.port, lambda at: progress(f"serving {settings.bundle} at {at}")
        )
    return {}, {"address": address}


def study(args: argparse.Namespace, recipe: None, progress: Progress) -> Outcome:
    """The user study: `study make URI` makes its clips, `s2v serve --study URI` asks people at /study, `study report URI` says what they answered.

    JSON result: of make, the study's manifest; of report, participants, answers, preference and emotion (share, low and high of the 95% interval, count).
    """
    from s2v_ray.evaluation.user_study import format_report, make_study, report

    uri = storage.absolute(args.study)
    if args.action == "report":
        result = report(uri)
        print(format_report(result))
        return {}, result
    if not args.corpus or not args.bundle:
        raise ValueError("study make needs --corpus and --bundle")
    reference = bundle_of(args.reference_bundle) if args.reference_bundle else None
    made = make_study(
        storage.absolute(args.corpus),
        uri,
        bundle_of(args.bundle),
        reference,
        clips=args.clips,
        seed=args.seed,
        progress=progress,
    )
    return {"study": uri}, made


def _endpoint_settings(args: argparse.Namespace) -> dict[str, Any]:
    """Fields of ``ServeSettings`` that the command line names."""
    given = {name: getattr(args, name) for name in ("token_env", "device", "detector") if getattr(args, name)}
    given |= {
        name: storage.absolute(getattr(args, name)) for name in ("teacher", "jobs", "study") if getattr(args, name)
    }
    if args.reference:
        given["reference"] = bundle_of(args.reference)
    if args.more:
        pairs = [word.partition("=") for word in args.more]
        given["bundles"] = {name: bundle_of(uri) for name, _, uri in pairs}
    return given | ({"replicas": tuple(args.replicas)} if args.replicas else {})


def plan(args: argparse.Namespace, recipe: config.Recipe, progress: Progress) -> Outcome:
    """Say what a training run will need: memory, speed, hours, cost and bottleneck at several numbers of workers, from the speed of a small run.

    JSON result: rows (by number of workers), memory (bytes of a rank), engines (parameters), projection (one pass over --hours of video),
    compared (predicted and measured speed of each --against), measured, corpus, assumptions, warnings.
    """
    import yaml

    from s2v_ray.cluster import planning
    from s2v_ray.cluster.manifests import load_cluster

    cluster = storage.absolute(args.cluster)
    prices = yaml.safe_load(
        storage.read_bytes(storage.absolute(args.prices or storage.join(cluster.rpartition("/")[0], "prices.yaml")))
    )
    measured = planning.read_measured(args.measured)
    setup = planning.make_setup(recipe, measured, planning.read_corpus(args.corpus), load_cluster(cluster), prices)
    result = planning.make_plan(setup, sorted(set(args.workers)), args.hours)
    result["prices"] = {"date": str(prices["date"]), "source": prices["source"]}
    result["compared"] = planning.compare(setup, [planning.read_measured(uri) for uri in args.against])
    print(planning.format_plan(result))
    print(f"prices of {prices['date']}: {prices['source']}")
    for c in result["compared"]:
        print(
            f"{c['run']}: {c['workers']} workers, {c['predicted']:.2f} clips/s predicted, {c['measured']:.2f} measured ({c['error']:+.1%})"
        )
    if not args.plot:
        return {}, result
    storage.write_bytes(storage.absolute(args.plot), planning.draw_plan(result).encode())
    return {"plot": storage.absolute(args.plot)}, result


def submit(args: argparse.Namespace, recipe: None, progress: Progress) -> Outcome:
    """Print the `ray job submit` that runs a command of s2v on a cluster, runtime environment filled in; --yes runs it and follows the job.

    What is wrong with the command is found here, before it is submitted. The submission id follows from command and recipe: submitted
    twice, it runs once. Environment variables are passed by name; secrets are not passed at all, the cluster's nodes have their own.

    JSON result: submission_id, command, submitted (whether a new job was).
    """
    from s2v_ray.cluster.submit import PASSED, Job, plain
    from s2v_ray.cluster.submit import submit as run

    words = plain(args.words)
    inner = _parser().parse_args(words)
    wanted = config.load_recipe(inner.recipe, inner.set) if "recipe" in inner else None
    variables = dict.fromkeys([*(v for v in PASSED if v in os.environ), *args.env])
    job = Job(
        words,
        wanted.digest() if wanted else "",
        args.attempt,
        args.address,
        args.working_dir,
        pip=args.pip,
        image=args.image,
        variables=tuple(variables),
    )
    print(job.shown())
    submitted = run(job, os.environ) if args.yes else False
    if args.yes and not submitted:
        progress(
            f"the cluster has job {job.submission_id} already: `ray job logs -f {job.submission_id}`; --attempt {job.attempt + 1} runs it again"
        )
    return {}, {"submission_id": job.submission_id, "command": job.shown(), "submitted": submitted}


def demo(args: argparse.Namespace, recipe: config.Recipe, progress: Progress) -> Outcome:
    """The whole chain on the built-in corpus, ending in a table of metrics, a report, a contact sheet and an MP4. A second call skips what is done.

    JSON result: steps (name to seconds and the step's own result).
    """
    from s2v_ray.demo import run_demo

    return run_demo(storage.absolute(args.out), recipe, reference=args.reference, progress=progress)


def doctor(args: argparse.Namespace, recipe: None, progress: Progress) -> Outcome:
    """Say in plain words what is wrong with a place, local or s3://, and with this machine. Nothing is left behind there.

    Exit status 1 where a check fails.

    JSON result: checks (name, status ok, warn or fail, and one sentence each), failed (how many).
    """
    import dataclasses

    from s2v_ray.cluster.preflight import examine

    checks = []
    for check in examine(args.uri):
        print(f"{check.status:4}  {check.name:14}  {check.sentence}", flush=True)
        checks.append(dataclasses.asdict(check))
    return {}, {"checks": checks, "failed": sum(c["status"] == "fail" for c in checks)}


def recipes(args: argparse.Namespace, recipe: None, progress: Progress) -> Outcome:
    """List the built-in recipes; with a name or URI, print that recipe in full, defaults included.

    JSON result: the full recipe, or the list of names.
    """
    import yaml

    if not args.name:
        print("\n".join(config.built_in_recipes()))
        return {}, {"recipes": config.built_in_recipes()}
    shown = config.load_recipe(args.name, args.set)
    full = shown.model_dump(mode="json")
    print(f"# digest {shown.digest()}\n{yaml.safe_dump(full, sort_keys=False)}", end="")
    return {}, {"recipe": full, "digest": shown.digest()}


def bundle_of(uri: str) -> str:
    """The bundle that ``uri`` means: itself, or the one of the run that lies there."""
    uri = storage.absolute(uri)
    inner = storage.join(uri, "bundle")
    return inner if storage.exists(storage.join(inner, storage.MANIFEST)) else uri


def _read_face(args: argparse.Namespace, size: int) -> np.ndarray:
    """The aligned crop, uint8 ``[size, size, 3]``, of the one face in the picture."""
    import cv2
    import numpy as np

    from s2v_ray.media.face import crop_face, make_detector

    data = np.frombuffer(storage.read_bytes(storage.absolute(args.face)), np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
    if image is None:
        raise ValueError(f"{args.face} is not a picture that can be read")
    image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    if args.detector == "none":
        return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    detector = make_detector(args.detector)
    try:
        return crop_face(image, size, detector)
    except ValueError as e:
        raise ValueError(f"{args.face} {e}; an aligned crop is taken as it is with --detector none") from e


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="s2v",
        description="Talking-face video from speech alone.",
        epilog="Any URI may be a local path or s3://bucket/key.",
    )
    parser.add_argument("--version", action="version", version=f"s2v_ray {_version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(
        run: Callable[..., Outcome], *positional: tuple[str, str], recipe: str | None = "puppets"
    ) -> argparse.ArgumentParser:
        doc = (run.__doc__ or "").strip()
        summary, _, rest = doc.partition("\n\n")
        lines = "\n".join(line.strip() for line in rest.splitlines())
        p = commands.add_parser(
            run.__name__,
            help=summary,
            description=summary,
            epilog=lines,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        for name, text in positional:
            p.add_argument(
                name,
                metavar=name.removesuffix("_uri").upper(),
                help=text,
                choices=("make", "report") if name == "action" else None,
            )
        if recipe:
            known = ", ".join(config.built_in_recipes())
            p.add_argument(
                "--recipe",
                default=recipe,
                metavar="NAME|URI",
                help=f"a built-in recipe ({known}) or a YAML file; default {recipe}",
            )
            _add_set(p)
        p.add_argument("--json", metavar="PATH", help="write what came out for programs")
        p.set_defaults(run=run, failed=lambda result: False)
        return p

    corpus, run_uri = (
        ("corpus", "URI of the corpus"),
        ("run_uri", "URI of the run: checkpoints, metrics, and the bundle at RUN/bundle"),
    )
    add(puppets, ("out", "folder to write to"))
    add(ingest, ("source", "URI of the folder of videos"), ("corpus", "URI of the corpus to write"))
    p = add(offsets, corpus, ("out", "URI of the folder for the offsets"), recipe=None)
    p.add_argument(
        "--sync",
        required=True,
        metavar="URI",
        help="a sync network of another corpus: CORPUS/teachers/sync or CORPUS/judges/sync",
    )
    p.add_argument(
        "--max-offset", type=int, default=15, metavar="FRAMES", help="largest offset looked for, either way; default 15"
    )
    add(teach, corpus)
    add(distill, corpus, run_uri)
    p = add(train, corpus, run_uri)
    p.add_argument("--student", required=True, metavar="URI", help="run of `s2v distill`, or its bundle")
    p.add_argument("--reference", action="store_true", help="train the reference baseline")
    p = add(evaluate, corpus, ("out", "URI of the folder for the report"))
    p.add_argument("--bundle", required=True, metavar="URI", help="run of `s2v train`, or its bundle")
    p.add_argument("--reference-bundle", metavar="URI", help="run of `s2v train --reference`, or its bundle")
    p = add(
        tune, ("corpus", "URI of the corpus, or the word report"), ("sweep", "URI of the sweep: table, runs, report")
    )
    p.add_argument("--space", metavar="URI", help="YAML file: what to vary, and how to search")
    p.add_argument(
        "--student",
        metavar="URI",
        help="run of `s2v distill`, or its bundle; default: one is distilled first, for all trials",
    )
    p.add_argument("--resume", action="store_true", help="go on with the sweep that lies there")
    p.set_defaults(failed=lambda result: result["winner"] is None)
    p = add(generate, ("speech", "speech file"), recipe=None)
    p.add_argument("--bundle", required=True, metavar="URI", help="run of `s2v train`, or its bundle")
    p.add_argument("-o", "--output", required=True, metavar="PATH", help="MP4 to write")
    p.add_argument("--emotion", help="show this emotion instead of the one heard")
    p.add_argument("--face", metavar="IMAGE", help="picture of whose face to show instead of the one heard")
    p.add_argument(
        "--teacher",
        metavar="URI",
        help="the identity teacher that the bundle was distilled from: CORPUS/teachers/identity",
    )
    p.add_argument(
        "--detector",
        default="haar",
        metavar="URI",
        help="finds that face: haar (default), YuNet weights, or none for an aligned crop",
    )
    p.add_argument("--seed", type=int, default=0, help="seed of the noise (blinks, small movements); default 0")
    p.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    for run in (serve, export):
        p = add(run, recipe=None)
        p.add_argument(
            "bundle", metavar="BUNDLE", nargs="?" if run is export else None, help="run of `s2v train`, or its bundle"
        )
        if run is export:
            p.add_argument("--best", metavar="URI", help="the sweep whose winner is wanted, in place of a bundle")
            p.add_argument("-o", "--output", metavar="URI", help="bundle to write, with --best")
        p.add_argument(
            "--host", default="127.0.0.1", metavar="ADDRESS", help="listen there; default 127.0.0.1: this machine alone"
        )
        p.add_argument("--port", type=int, default=8000, help="default 8000")
        p.add_argument(
            "--token-env", metavar="NAME", help="demand the bearer token that this environment variable holds"
        )
        p.add_argument("--reference", metavar="URI", help="a reference bundle, to compare with")
        p.add_argument(
            "--more",
            action="append",
            default=[],
            metavar="NAME=URI",
            help="another bundle, which callers can ask for by name; may be repeated",
        )
        p.add_argument(
            "--teacher",
            metavar="URI",
            help="the identity teacher (CORPUS/teachers/identity): then a face can stand in for a voice",
        )
        p.add_argument("--detector", metavar="URI", help="finds that face: haar (default), or YuNet weights")
        p.add_argument("--jobs", metavar="URI", help="folder of the jobs; `serve` without it: a temporary one")
        p.add_argument("--study", metavar="URI", help="a study made by `s2v study make`, asked at /study")
        p.add_argument(
            "--replicas", type=int, nargs=2, metavar=("FEWEST", "MOST"), help="replicas, scaled on load; default 1 1"
        )
        p.add_argument("--device", help="cpu (default) or cuda")
    p = add(study, ("action", "make or report"), ("study", "URI of the study"), recipe=None)
    p.add_argument("--corpus", metavar="URI", help="make: the corpus, whose split test the clips come from")
    p.add_argument("--bundle", metavar="URI", help="make: run of `s2v train`, or its bundle")
    p.add_argument("--reference-bundle", metavar="URI", help="make: run of `s2v train --reference`, or its bundle")
    p.add_argument("--clips", type=int, default=20, help="make: number of clips; default 20")
    p.add_argument("--seed", type=int, default=0, help="make: which clips, and the order of the questions; default 0")
    p = add(plan, recipe="full")
    p.add_argument("--corpus", required=True, metavar="URI", help="the corpus: size of a clip, number of clips")
    p.add_argument("--cluster", required=True, metavar="URI", help="manifest of the cluster: cluster/aws.yaml")
    p.add_argument(
        "--measured",
        required=True,
        metavar="URI",
        help="a run of `s2v train` whose speed to start from, or a YAML file of measurements",
    )
    p.add_argument("--prices", metavar="URI", help="default: prices.yaml beside the manifest")
    p.add_argument(
        "--workers",
        type=int,
        nargs="+",
        default=[2**i for i in range(11)],
        metavar="N",
        help="numbers of workers; default 1 2 4 ... 1024",
    )
    p.add_argument(
        "--hours",
        type=float,
        default=1e6,
        metavar="HOURS",
        help="hours of video of the projection, seen once; default a million",
    )
    p.add_argument(
        "--against",
        nargs="*",
        default=[],
        metavar="URI",
        help="other runs, whose speed is compared with the prediction",
    )
    p.add_argument("--plot", metavar="PATH", help="SVG to write: speed over workers")
    p = add(submit, recipe=None)
    p.add_argument(
        "--address",
        default="",
        metavar="URL",
        help="the cluster's dashboard; default: what RAY_API_SERVER_ADDRESS says",
    )
    p.add_argument("--working-dir", default=".", metavar="PATH", help="folder to send along; default the current one")
    p.add_argument(
        "--pip",
        default="",
        metavar="FILE",
        help="requirements to install on the nodes; default: their image has everything",
    )
    p.add_argument("--image", default="", metavar="URI", help="image to run in, which then has the code too")
    p.add_argument(
        "--env", action="append", default=[], metavar="NAME", help="pass this environment variable on; may be repeated"
    )
    p.add_argument(
        "--attempt", type=int, default=1, metavar="N", help="run the same command once more, under another id"
    )
    p.add_argument("--yes", action="store_true", help="run it")
    p.add_argument(
        "words", nargs=argparse.REMAINDER, metavar="-- COMMAND ...", help="a command of s2v with its arguments"
    )
    p = add(demo, ("out", "folder to write to"), recipe="demo")
    p.add_argument(
        "--reference",
        action="store_true",
        help="also train the reference baseline; without it the seen identity stands for it",
    )
    p = add(doctor, ("uri", "the place to look at: a folder, or s3://bucket/key"), recipe=None)
    p.set_defaults(failed=lambda result: result["failed"] > 0)
    p = add(recipes, recipe=None)
    p.add_argument("name", nargs="?", metavar="NAME|URI", help="recipe to print in full")
    _add_set(p)
    return parser


def _add_set(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set", action="append", default=[], metavar="a.b=c", help="override one key of the recipe; may be repeated"
    )


def _write_json(
    args: argparse.Namespace,
    recipe: config.Recipe | None,
    seconds: float,
    artifacts: dict[str, str],
    result: dict[str, Any],
) -> None:
    known = {"recipe": recipe.name if recipe else None, "config_digest": recipe.digest() if recipe else None}
    value = {
        "command": args.command,
        "version": _version(),
        **known,
        "seconds": round(seconds, 2),
        "artifacts": artifacts,
        "result": result,
    }
    storage.write_json(storage.absolute(args.json), value)


def _version() -> str:
    try:
        return importlib.metadata.version("s2v_ray")
    except importlib.metadata.PackageNotFoundError:
        return "unknown (not installed)"


def _is_users(error: Exception) -> bool:
    """Whether the user can mend it: bad values, files and networks, a loss that is not finite. The rest are our own faults, and show where."""
    return isinstance(error, (ValueError, OSError, FloatingPointError)) or type(error).__module__.startswith(
        "botocore."
    )


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, FileNotFoundError) and not isinstance(error, storage.ArtifactError):
        return f"no such file: {error}"
    return " ".join(str(error).split()) or type(error).__name__
