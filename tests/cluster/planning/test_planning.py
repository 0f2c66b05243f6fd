"""The arithmetic of a plan, against values worked out by hand."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path

import pytest

from s2v_ray import storage
from s2v_ray.cluster import planning
from s2v_ray.cluster.manifests import Group, load_cluster
from s2v_ray.cluster.planning import CorpusSize, Measured, Parameters, PlanError, Price, Setup
from s2v_ray.config import load_recipe
from s2v_ray.shards import CORPUS_SCHEMA

ROOT = Path(__file__).parents[3]
MANY_REQUESTS = planning.Assumptions(requests_per_clip=1.5)  # so that they are what limits 1024 GPUs
FULL = load_recipe("full")  # 8 workers with 6 CPUs and a GPU each, 16 clips a worker, 200,000 steps of 128


def setup(**changes: object) -> Setup:
    """4 GPUs a node; 10 clips/s a GPU; 25 million parameters to average, 0.1 GB; a network card of 1 GB/s."""
    given = {
        "recipe": FULL,
        "measured": Measured(80.0, 8, gpu=True),
        "corpus": CorpusSize(1000, 1e6, 4.0),
        "group": Group("train", "train", 48, 4, 256, False, "", "x", spot=False),
        "price": Price(2.0, 24 * 2**30, 1e9),
        "head_hourly": 0.5,
        "get_price": 0.0,
        "engines": {"generator": Parameters(25_000_000, 0, 2)},
        "assumed": planning.Assumptions(
            engine_seconds=0.0, hop_seconds=0.001, node_bandwidth=10e9, losses_per_node_hour=0.0
        ),
    }
    return Setup(**(given | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("stage", "expected"),
    [  # 1000 trained, 500 frozen, 4 ranks: weights, gradients, optimizer
        (0, (6000, 4000, 8000)),
        (1, (6000, 4000, 3000)),
        (2, (6000, 1000, 3000)),
        (3, (1500, 1000, 3000)),
    ],
)
def test_memory_at_each_stage(stage: planning.Stage, expected: tuple[float, ...]) -> None:
    found = planning.memory_per_rank(Parameters(1000, 500, stage, averaged=True), 4)
    assert (found["weights"], found["gradients"], found["optimizer"]) == expected
    assert found["moving average"] == 4000
    assert found["buckets"] == (8000 if stage else 0)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_one_worker_alone_holds_no_copy_of_the_weights(stage: int) -> None:
    found = planning.memory_per_rank(Parameters(1000, 500, stage), 1)
    assert (found["weights"], found["gradients"], found["optimizer"], found["buckets"]) == (6000, 4000, 8000, 0)
    offloaded = planning.memory_per_rank(Parameters(1000, 500, 2, states_on_cpu=True), 1)
    assert (offloaded["gradients"], offloaded["buckets"]) == (4000, 8000)


def test_what_is_offloaded_takes_no_memory_of_the_device() -> None:
    found = planning.memory_per_rank(Parameters(1000, 500, 3, states_on_cpu=True, weights_on_cpu=True), 4)
    assert (found["weights"], found["gradients"], found["optimizer"]) == (0, 1000, 0)
    recipe = load_recipe(
        "debug", ["parallel.offload_optimizer=true", "parallel.zero_generator=2", "parallel.zero_discriminators=1"]
    )
    assert all(engine.states_on_cpu and not engine.weights_on_cpu for engine in planning.engines_of(recipe).values())


def test_a_checkpoint_grows_with_the_workers_only_by_the_average() -> None:
    engine = Parameters(1000, 500, 2, averaged=True)
    assert planning.checkpoint_bytes(engine, 1) == (6000 + 8000 + 4000, 18000)
    assert planning.checkpoint_bytes(engine, 2) == (6000 + 12000 + 8000, 6000 + 6000 + 4000)
    assert planning.checkpoint_bytes(engine, 4) == (6000 + 12000 + 16000, 6000 + 3000 + 4000)


def test_ring() -> None:
    assert planning.ring_seconds(1e9, 1, 1e9, 0.1) == 0
    assert planning.ring_seconds(1e9, 4, 1e9, 0.1) == pytest.approx(1.5 + 0.6)


def test_best_interval() -> None:
    assert planning.young_interval(2.0, 100.0) == 20.0
    # x = 2/200: 20 (1 + 0.1/3 + 0.01/9) - 2
    assert planning.daly_interval(2.0, 100.0) == pytest.approx(18.688889, abs=1e-6)
    assert planning.daly_interval(300.0, 100.0) == 100.0


def test_dalys_interval_is_the_best_of_his_overhead() -> None:
    save, restart, mtbf = 60.0, 300.0, 4 * 3600.0
    best = min(range(10, 10_000, 10), key=lambda t: planning.overhead(t, save, restart, mtbf))
    assert best == pytest.approx(planning.daly_interval(save, mtbf), abs=10)
    assert planning.overhead(1e9, save, restart, mtbf) == math.inf


def test_overhead_without_losses_is_the_saving() -> None:
    assert planning.overhead(90.0, 10.0, 300.0, 1e12) == pytest.approx(100 / 90, abs=1e-6)


def test_overhead_by_hand() -> None:
    # 100 e^0.1 (e^0.2 - 1) / 10
    assert planning.overhead(10.0, 10.0, 10.0, 100.0) == pytest.approx(2.446876, abs=1e-5)


def test_the_simulation_agrees_with_the_formula() -> None:
    work, interval, save, restart, mtbf = 100_000.0, 900.0, 60.0, 120.0, 5000.0
    walls = [planning.simulate(work, interval, save, restart, mtbf, seed)[0] for seed in range(60)]
    assert statistics.mean(walls) / work == pytest.approx(planning.overhead(interval, save, restart, mtbf), rel=0.03)


def test_the_simulation_without_losses() -> None:
    assert planning.simulate(100.0, 30.0, 1.0, 5.0, 1e15) == (104.0, 0)  # 30 + 30 + 30 + 10, each saved


def test_a_step_of_eight_gpus_on_two_nodes() -> None:
    compute, reduce = planning.step_seconds(setup(), 8)
    assert compute == pytest.approx(128 / 80)
    assert reduce == pytest.approx(2 * 7 / 8 * 0.1 + 14 * 0.001)  # over the network card
    assert planning.step_seconds(setup(), 4)[1] == pytest.approx(2 * 3 / 4 * 0.01 + 6 * 0.001)  # within the node
    assert planning.step_seconds(setup(), 1)[1] == 0


def test_stage_three_moves_half_as_much_again() -> None:
    three = setup(engines={"generator": Parameters(25_000_000, 0, 3)})
    assert planning.step_seconds(three, 8)[1] == pytest.approx(1.5 * 2 * 7 / 8 * 0.1 + 14 * 0.001)


def test_workers_without_gpus_share_the_machine() -> None:
    one_machine = setup(measured=Measured(80.0, 2, gpu=False))
    assert (
        planning.step_seconds(one_machine, 4)[0]
        == 2 * planning.step_seconds(one_machine, 2)[0]
        == pytest.approx(64 / 80)
    )


def test_workers_without_gpus_are_faster_together_until_the_cpus_are_busy() -> None:
    one_thread_of_two = setup(measured=Measured(40.0, 1, gpu=False, full_at=2))
    assert [planning.step_seconds(one_thread_of_two, n)[0] for n in (1, 2, 4)] == pytest.approx(
        [16 / 40, 32 / 80, 64 / 80]
    )


def test_one_worker_alone_is_spared_what_deepspeed_takes() -> None:
    costly = planning.Assumptions(engine_seconds=0.02)
    one_thread_of_two = setup(measured=Measured(40.0, 1, gpu=False, full_at=2), assumed=costly)
    assert [planning.step_seconds(one_thread_of_two, n)[0] for n in (1, 2, 4)] == pytest.approx(
        [16 / 40, 32 / 80 + 0.02, 64 / 80 + 2 * 0.02]
    )
    assert [planning.step_seconds(setup(assumed=costly), n)[0] for n in (1, 8)] == pytest.approx([1.6 - 0.02, 1.6])
    plain = setup(assumed=costly, engines={"generator": Parameters(25_000_000, 0, 0)})
    assert planning.step_seconds(plain, 1)[0] == pytest.approx(1.6 - 0.02)


@pytest.mark.parametrize(
    ("changes", "workers", "bottleneck", "rate"),
    [
        ({}, 1, "GPU", 10.0),
        ({"corpus": CorpusSize(1000, 1e8, 4.0)}, 8, "network", 20.0),  # 2 cards of 1 GB/s, 100 MB a clip
        ({"assumed": MANY_REQUESTS}, 1024, "S3 requests", 5500 / 1.5),
        (
            {"measured": Measured(80.0, 8, True, decode_clips_per_cpu_second=0.5)},
            8,
            "decoding",
            24.0,
        ),  # 96 CPUs - 8 * 6, half a clip each
        ({"price": Price(2.0, 1.0, 1e7)}, 8, "all-reduce", 128 / (1.6 + 17.5 + 0.014)),
    ],
)
def test_the_bottleneck(changes: dict[str, object], workers: int, bottleneck: str, rate: float) -> None:
    row = planning.estimate(setup(**changes), workers, 1000)
    assert (row.bottleneck, row.clips_per_second) == (bottleneck, pytest.approx(rate))


def test_hours_and_cost() -> None:
    row = planning.estimate(setup(), 1, 36_000)
    assert row.hours == pytest.approx(1.0)  # 36,000 clips at 10 a second
    assert row.cost == pytest.approx(2.5)  # a node and the head
    assert row.overhead == 1.0 and row.interval is None
    paid = planning.estimate(setup(get_price=1e-3), 1, 36_000)
    assert paid.cost == pytest.approx(2.5 + 36_000 * 0.75e-3)


def test_spot_nodes_stretch_the_hours() -> None:
    spot = setup(
        group=Group("train", "train", 48, 4, 256, False, "", "x", spot=True),
        assumed=planning.Assumptions(losses_per_node_hour=0.1),
    )
    row = planning.estimate(spot, 8, 36_000)
    save = 0.1 + 0.3 / 8  # GB of worker 0, weights and its part of the optimizer's state, at 0.1 GB/s
    assert row.save_seconds == pytest.approx(save * 10)
    assert row.interval is not None
    assert row.interval == pytest.approx(planning.daly_interval(save * 10, 3600 / 0.2))
    assert row.overhead == pytest.approx(planning.overhead(row.interval, save * 10, 300, 18_000))


def test_the_projection() -> None:
    found = planning.project(setup(assumed=MANY_REQUESTS), 1024, 1e6)
    assert found["clips"] == 9e8  # 3.6e9 s in clips of 4 s
    assert found["corpus_bytes"] == 9e14
    assert found["shards"] == math.ceil(9e8 / 64)
    assert found["index_requests"] == found["shards"] * 3 * 1024
    assert found["row"]["hours"] == pytest.approx(9e8 / (5500 / 1.5) / 3600)


def test_a_prediction_beside_other_runs() -> None:
    (found,) = planning.compare(setup(), [Measured(20.0, 2, gpu=True, origin="two")])
    assert found["predicted"] == pytest.approx(32 / (1.6 + 0.01 + 0.002))
    assert found["error"] == pytest.approx(found["predicted"] / 20 - 1)


def test_a_run_is_read_without_its_start_and_its_waiting(tmp_path: Path) -> None:
    storage.write_json(str(tmp_path / "manifest.json"), {"recipe": {"parallel": {"workers": 2, "gpu": False}}})
    records = [
        {"clips_per_second": 1.0, "data_wait": 0.0},
        {"clips_per_second": 9.0, "data_wait": 0.1},
        {"clips_per_second": 8.0, "data_wait": 0.2},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    found = planning.read_measured(str(tmp_path))
    assert (found.clips_per_second, found.workers, found.gpu) == (pytest.approx(10.0), 2, False)
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(PlanError, match="no metrics"):
        planning.read_measured(str(tmp_path))


def test_measurements_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text("clips_per_second: 80\nworkers: 8\ngpu: true\ndecode_clips_per_cpu_second: 5\n")
    assert planning.read_measured(str(tmp_path / "m.yaml")).decode_clips_per_cpu_second == 5
    (tmp_path / "m.yaml").write_text("clips_per_minute: 80\n")
    with pytest.raises(PlanError, match="clips_per_second"):
        planning.read_measured(str(tmp_path / "m.yaml"))


def test_the_corpus_is_measured_by_listing_it(tmp_path: Path) -> None:
    storage.write_manifest(
        str(tmp_path), "corpus", CORPUS_SCHEMA, splits={"train": {"clips": 4, "frames": 300, "shards": 2}}
    )
    for i, size in enumerate((1000, 3000)):
        storage.write_bytes(str(tmp_path / "train" / f"part-{i:05d}.parquet"), b"x" * size)
    assert planning.read_corpus(str(tmp_path)) == CorpusSize(4, 1000.0, 3.0)


def test_the_whole_plan_of_the_recipe_full(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the command, on the shipped manifest and prices; the parameters are those of the real modules."""
    from s2v_ray import cli

    corpus = tmp_path / "corpus"
    storage.write_manifest(
        str(corpus), "corpus", CORPUS_SCHEMA, splits={"train": {"clips": 10, "frames": 750, "shards": 1}}
    )
    storage.write_bytes(str(corpus / "train" / "part-00000.parquet"), b"x" * 5_000_000)
    (tmp_path / "m.yaml").write_text("{clips_per_second: 100, workers: 8, gpu: true}")
    where = [
        "--corpus",
        str(corpus),
        "--cluster",
        str(ROOT / "cluster" / "aws.yaml"),
        "--measured",
        str(tmp_path / "m.yaml"),
    ]
    assert (
        cli.main(
            [
                "plan",
                *where,
                "--workers",
                "8",
                "1024",
                "--plot",
                str(tmp_path / "p.svg"),
                "--json",
                str(tmp_path / "p.json"),
            ]
        )
        == 0
    )
    result = json.loads((tmp_path / "p.json").read_text())["result"]
    assert [r["workers"] for r in result["rows"]] == [8, 1024] and [r["nodes"] for r in result["rows"]] == [2, 256]
    here = {"states_on_cpu": False, "weights_on_cpu": False}
    assert result["engines"]["generator"] == {
        "trained": 19_903_523,
        "frozen": 4_402_038,
        "stage": 2,
        "averaged": True,
        **here,
    }
    assert result["engines"]["discriminators"]["trained"] == 7_261_578
    text = capsys.readouterr().out
    assert "1,000,000 hours of video" in text and "assumed:" in text and "prices of 2026-11-22" in text
    assert (tmp_path / "p.svg").read_text().startswith("<svg")


def test_prices_name_every_instance_of_the_cluster() -> None:
    import yaml

    prices = yaml.safe_load((ROOT / "cluster" / "prices.yaml").read_text())
    assert {g.instance for g in load_cluster(str(ROOT / "cluster" / "aws.yaml")).groups} == set(prices["hourly"])
    assert prices["date"] and prices["source"]
