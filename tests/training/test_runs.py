"""A run folder belongs to one run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from s2v_ray import storage
from s2v_ray.training.checkpoint import CHECKPOINT_SCHEMA
from s2v_ray.training.runs import RunSpec, claim_run
from tests.helpers.recipes import debug_recipe
from tests.helpers.tiny_corpus import make_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_corpus(str(tmp_path_factory.mktemp("corpus")), clips=4)


def test_a_run_folder_belongs_to_one_run(tmp_path: Path, corpus: str) -> None:
    run = str(tmp_path / "run")
    made = claim_run(RunSpec("distill", debug_recipe(), corpus, run))
    assert (
        claim_run(RunSpec("distill", debug_recipe(), corpus, run))
        == json.loads((tmp_path / "run" / "manifest.json").read_text())
        == made
    )
    with pytest.raises(storage.ArtifactError, match=r"holds another run \(recipe.distill.lr 0.001 there, 0.01 here\)"):
        claim_run(RunSpec("distill", debug_recipe("distill.lr=0.01"), corpus, run))
    with pytest.raises(storage.ArtifactError, match="task 'distill' there, 'gan' here"):
        claim_run(RunSpec("gan", debug_recipe(), corpus, run))
    assert (
        claim_run(RunSpec("distill", debug_recipe("parallel.workers=2", "log.log_every=1"), corpus, run)) == made
    )  # the same run, shared by others
    other = make_corpus(str(tmp_path / "other"), clips=4, size=64)
    with pytest.raises(storage.ArtifactError, match="parents.corpus"):
        claim_run(RunSpec("distill", debug_recipe(), other, run))


def test_everything_that_identifies_a_run_is_in_its_digest() -> None:
    spec = RunSpec("distill", debug_recipe(), "corpus", "run")
    others = [
        replace(spec, kind="gan"),
        replace(spec, recipe=debug_recipe("seed=1")),
        replace(spec, corpus="other"),
        replace(spec, run="other"),
        replace(spec, student="student"),
        replace(spec, reference=True),
        replace(spec, begin_from="checkpoint"),
    ]
    assert len({spec.digest(), *(other.digest() for other in others)}) == 8
    assert spec.digest() == RunSpec("distill", debug_recipe(), "corpus", "run").digest()


def test_a_run_that_begins_from_a_checkpoint_names_it_as_its_parent(tmp_path: Path, corpus: str) -> None:
    donor = str(tmp_path / "donor")
    spec = RunSpec("distill", debug_recipe(), corpus, str(tmp_path / "run"), begin_from=donor)
    with pytest.raises(storage.ArtifactError, match="there is no checkpoint at"):
        claim_run(spec)
    storage.write_manifest(donor, "checkpoint", CHECKPOINT_SCHEMA, step=4)
    assert "checkpoint" in claim_run(spec)["parents"]
