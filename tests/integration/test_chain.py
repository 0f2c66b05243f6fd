"""The whole chain with the `debug` recipe, command by command, as a person would type it.

The demo then continues from these artifacts. `test_demo_chain.py` runs all of it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from s2v_ray import cli, shards, storage
from s2v_ray.config import load_recipe
from s2v_ray.demo import History, Step, _steps
from s2v_ray.evaluation.rows import REFERENCE_ROWS, ROWS
from s2v_ray.media.video import read_video
from s2v_ray.models.bundle import load_bundle

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

ONE_THREAD = "parallel.threads=1"
WITH_RECIPE = ("--recipe", "debug", "--set", ONE_THREAD)
RECIPE = load_recipe("debug", [ONE_THREAD])


class Chain:
    """A folder in which commands were run, with what each wrote as --json."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.reports: dict[str, dict[str, Any]] = {}

    def at(self, name: str) -> str:
        return str(self.folder / name)

    def run(self, name: str, *argv: str, recipe: bool = True) -> None:
        report = self.folder / f"{name}.json"
        assert cli.main([*argv, *(WITH_RECIPE if recipe else ()), "--json", str(report)]) == 0
        self.reports[name] = json.loads(report.read_text())


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    c = Chain(tmp_path_factory.mktemp("chain"))
    c.run("puppets", "puppets", c.at("videos"))
    c.run("ingest", "ingest", c.at("videos"), c.at("corpus"))
    c.run("teach", "teach", c.at("corpus"))
    c.run("distill", "distill", c.at("corpus"), c.at("student"))
    c.run("train", "train", c.at("corpus"), c.at("generator"), "--student", c.at("student"))
    c.run("reference", "train", c.at("corpus"), c.at("reference"), "--student", c.at("student"), "--reference")
    c.run(
        "evaluate",
        "evaluate",
        c.at("corpus"),
        c.at("report"),
        "--bundle",
        c.at("generator"),
        "--reference-bundle",
        c.at("reference"),
    )
    speech = sorted((c.folder / "videos").rglob("*.mp4"))[0]
    c.run("generate", "generate", "--bundle", c.at("generator"), str(speech), "-o", c.at("out.mp4"), recipe=False)
    return c


def test_every_step_reports_with_stable_keys(chain: Chain) -> None:
    for name, report in chain.reports.items():
        assert set(report) == {"command", "version", "recipe", "config_digest", "seconds", "artifacts", "result"}
        if name != "generate":
            assert report["config_digest"] == RECIPE.digest()
        for uri in report["artifacts"].values():
            assert storage.exists(uri), f"{name} says it wrote {uri}"


def test_every_clip_is_in_the_corpus_or_among_the_rejects(chain: Chain) -> None:
    videos = len(list((chain.folder / "videos").rglob("*.mp4")))
    assert videos == 4 * 3 * 4  # speakers, emotions, sentences
    counts = {
        split: len(
            [row for uri in shards.shard_uris(chain.at("corpus"), split) for row in shards.read_shard(uri, ["id"])]
        )
        for split in shards.SPLITS
    }
    rejects = pq.read_table(chain.folder / "corpus" / "rejects.parquet").num_rows
    assert sum(counts.values()) + rejects == videos
    assert all(counts.values())


def test_sentences_of_the_test_were_not_seen_and_speakers_were(chain: Chain) -> None:
    def column(split: str, name: str) -> set[str]:
        return {
            row[name] for uri in shards.shard_uris(chain.at("corpus"), split) for row in shards.read_shard(uri, [name])
        }

    assert column("test", "speaker") <= column("train", "speaker")
    seen = {
        (r["speaker"], r["sentence"])
        for uri in shards.shard_uris(chain.at("corpus"), "train")
        for r in shards.read_shard(uri, ["speaker", "sentence"])
    }
    held = {
        (r["speaker"], r["sentence"])
        for uri in shards.shard_uris(chain.at("corpus"), "test")
        for r in shards.read_shard(uri, ["speaker", "sentence"])
    }
    assert not seen & held


@pytest.mark.parametrize("role", ["identity", "emotion"])
def test_every_clip_has_its_teachers_outputs_in_order(chain: Chain, role: str) -> None:
    for split in shards.SPLITS:
        for uri in shards.shard_uris(chain.at("corpus"), split):
            clips = shards.read_shard(uri, ["id", "num_frames"])
            outputs = shards.read_shard(shards.outputs_uri(chain.at("corpus"), role, uri))
            assert [r["id"] for r in outputs] == [r["id"] for r in clips]
            if role == "emotion":
                assert [r["shape"][0] for r in outputs] == [r["num_frames"] for r in clips]


def test_bundles_carry_the_recipe_and_their_parents(chain: Chain) -> None:
    student, card = load_bundle(chain.at("student/bundle"), "student")
    assert card["config_digest"] == RECIPE.digest()
    model, card = load_bundle(chain.at("generator/bundle"), "speech2video")
    assert not card["reference"] and card["lineage"]["student"]
    for name, value in student.state_dict().items():
        assert model.student.state_dict()[name].shape == value.shape
    assert load_bundle(chain.at("reference/bundle"), "speech2video")[1]["reference"]


def test_the_table_carries_every_row(chain: Chain) -> None:
    result = chain.reports["evaluate"]["result"]
    assert result["rows"].keys() == ROWS.keys() and result["missing_rows"] == {}
    psnr = {row: result["rows"][row]["values"]["psnr"] for row in ROWS}
    assert psnr["reference baseline"] != psnr["reference baseline, still of another take"], (
        "the still makes a difference"
    )
    report = (Path(chain.reports["evaluate"]["artifacts"]["report"])).read_text()
    assert all(row in report for row in ROWS)


def test_the_video_is_as_long_as_the_speech_and_marked(chain: Chain) -> None:
    made = chain.reports["generate"]["result"]
    video = read_video(chain.at("out.mp4"))
    assert len(video.frames) == made["frames"]
    assert video.frames[0].shape == (32, 32, 3)
    assert b"synthetic" in (chain.folder / "out.mp4").read_bytes()


def test_a_failed_step_leaves_earlier_artifacts_as_they_were(chain: Chain, capsys: pytest.CaptureFixture[str]) -> None:
    before = {p: p.stat().st_mtime_ns for p in (chain.folder / "generator").rglob("*") if p.is_file()}
    argv = ["train", chain.at("corpus"), chain.at("generator"), "--student", chain.at("generator"), *WITH_RECIPE]
    assert cli.main(argv) == 1
    assert "s2v: error: " in capsys.readouterr().err
    assert before == {p: p.stat().st_mtime_ns for p in (chain.folder / "generator").rglob("*") if p.is_file()}


def test_a_loss_that_is_not_finite_ends_in_one_sentence(chain: Chain, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [
        "distill",
        chain.at("corpus"),
        chain.at("diverged"),
        *WITH_RECIPE,
        "--set",
        "distill.lr=1.0e+30",
        "--set",
        "parallel.grad_clip=0",
    ]
    assert cli.main(argv) == 1
    sentences = [line for line in capsys.readouterr().err.splitlines() if line.startswith("s2v: error: ")]
    assert len(sentences) == 1 and "not finite" in sentences[0]
    assert not storage.exists(chain.at("diverged/bundle/manifest.json"))


def artifact_of(chain: Chain, step: Step) -> Callable[[], dict[str, Any]]:
    """Instead of the work of a step of the demo: a copy of what the command of that name has made."""
    names = {"puppets": "videos", "ingest": "corpus", "distill": "student", "train": "generator"}

    def copy() -> dict[str, Any]:
        if step.output:
            shutil.copytree(chain.at(names[step.name]), step.output)
        return dict(chain.reports[step.name]["result"])

    return copy


def test_the_demo_ends_with_a_table_a_report_a_picture_and_a_video(
    chain: Chain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "demo")
    history = History(out, RECIPE)
    for step in _steps(out, RECIPE, reference=False)[:5]:
        history.run(replace(step, work=artifact_of(chain, step)))
    assert cli.main(["demo", out, *WITH_RECIPE]) == 0
    said = capsys.readouterr().out
    assert all(f"{name}: done before" in said for name in ("puppets", "ingest", "teach", "distill", "train"))
    assert all(row in said for row in ROWS.keys() - REFERENCE_ROWS)
    assert "no row reference baseline: no reference bundle was given" in said
    for name in ("report.html", "contact.png", "video.mp4"):
        path = next(line.split(": ", 1)[1] for line in said.splitlines() if line.endswith(name))
        assert Path(path).stat().st_size > 1000
    assert cli.main(["demo", out, *WITH_RECIPE]) == 0
    assert "evaluate: done before" in capsys.readouterr().out
