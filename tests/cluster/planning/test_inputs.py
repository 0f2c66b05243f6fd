from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from s2v_ray import storage
from s2v_ray.cluster.manifests import load_cluster
from s2v_ray.cluster.planning import (
    Assumptions,
    CorpusSize,
    Measurement,
    PlanError,
    make_inputs,
    read_corpus_size,
    read_measurement,
)
from s2v_ray.config import load_recipe
from s2v_ray.shards import CORPUS_SCHEMA
from tests.helpers.plans import FULL

ROOT = Path(__file__).parents[3]
PRICES = yaml.safe_load((ROOT / "cluster" / "prices.yaml").read_text())


def test_speed_of_a_run_without_its_start_and_its_waiting(tmp_path: Path) -> None:
    storage.write_json(str(tmp_path / "manifest.json"), {"recipe": {"parallel": {"workers": 2, "gpu": False}}})
    records = [
        {"clips_per_second": 1.0, "data_wait": 0.0},
        {"clips_per_second": 9.0, "data_wait": 0.1},
        {"clips_per_second": 8.0, "data_wait": 0.2},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    found = read_measurement(str(tmp_path))
    assert (found.clips_per_second, found.workers, found.gpu) == (pytest.approx(10.0), 2, False)
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(PlanError, match="no metrics"):
        read_measurement(str(tmp_path))


def test_measurements_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text("clips_per_second: 80\nworkers: 8\ngpu: true\ndecode_clips_per_cpu_second: 5\n")
    assert read_measurement(str(tmp_path / "m.yaml")).decode_clips_per_cpu_second == 5
    (tmp_path / "m.yaml").write_text("clips_per_minute: 80\n")
    with pytest.raises(PlanError, match="clips_per_second"):
        read_measurement(str(tmp_path / "m.yaml"))


def test_size_of_a_corpus(tmp_path: Path) -> None:
    storage.write_manifest(
        str(tmp_path), "corpus", CORPUS_SCHEMA, splits={"train": {"clips": 4, "frames": 300, "shards": 2}}
    )
    for i, size in enumerate((1000, 3000)):
        storage.write_bytes(str(tmp_path / "train" / f"part-{i:05d}.parquet"), b"x" * size)
    assert read_corpus_size(str(tmp_path)) == CorpusSize(4, 1000.0, 3.0)


def test_prices_name_every_instance_of_the_cluster() -> None:
    assert {g.instance for g in load_cluster(str(ROOT / "cluster" / "aws.yaml")).groups} == set(PRICES["hourly"])
    assert PRICES["date"] and PRICES["source"]


def test_an_empty_corpus_is_an_error(tmp_path: Path) -> None:
    splits = {"train": {"clips": 0, "frames": 0, "shards": 0}}
    storage.write_manifest(str(tmp_path), "corpus", CORPUS_SCHEMA, splits=splits)
    with pytest.raises(PlanError, match="the train split of .* is empty"):
        read_corpus_size(str(tmp_path))


def test_inputs_of_the_shipped_manifest_and_prices() -> None:
    cluster = load_cluster(str(ROOT / "cluster" / "aws.yaml"))
    made = make_inputs(FULL, Measurement(80.0, 8, gpu=True), CorpusSize(1000, 1e6, 4.0), cluster, PRICES)
    assert made.group.name == "train"
    assert made.price.hourly == PRICES["hourly"][made.group.instance]["spot"]
    assert made.head_hourly == PRICES["hourly"]["m6i.xlarge"]["on_demand"]
    assert (made.workers_per_node, made.worker_batch) == (4, 16)
    assert [made.nodes(n) for n in (1, 4, 5)] == [1, 1, 2]


def test_missing_nodes_and_prices_are_errors() -> None:
    cluster = load_cluster(str(ROOT / "cluster" / "aws.yaml"))
    measured, corpus = Measurement(80.0, 8, gpu=True), CorpusSize(1000, 1e6, 4.0)
    huge = load_recipe("full", ["parallel.cpus_per_worker=1000"])
    with pytest.raises(PlanError, match="no node labelled train that holds a worker of recipe full"):
        make_inputs(huge, measured, corpus, cluster, PRICES)
    with pytest.raises(PlanError, match="the prices do not name the instances .*g5.12xlarge"):
        make_inputs(FULL, measured, corpus, cluster, PRICES | {"hourly": {}})


def test_every_assumption_is_listed() -> None:
    lines = Assumptions(prefixes=7).listed()
    assert "prefixes over which S3 distributes the requests for the train split: 7" in lines
    assert len(lines) > 11
