from __future__ import annotations

import pytest

from s2v_ray.cluster.planning import (
    Assumptions,
    CorpusSize,
    EngineParameters,
    Measurement,
    Price,
    resource_rates,
    ring_seconds,
    step_seconds,
)
from tests.helpers.plans import inputs


def test_ring_all_reduce() -> None:
    assert ring_seconds(1e9, 1, 1e9, 0.1) == 0
    assert ring_seconds(1e9, 4, 1e9, 0.1) == pytest.approx(1.5 + 0.6)


def test_a_step_of_eight_gpus_on_two_nodes() -> None:
    compute, reduce = step_seconds(inputs(), 8)
    assert compute == pytest.approx(128 / 80)
    assert reduce == pytest.approx(2 * 7 / 8 * 0.1 + 14 * 0.001)  # over the network card
    assert step_seconds(inputs(), 4)[1] == pytest.approx(2 * 3 / 4 * 0.01 + 6 * 0.001)  # within the node
    assert step_seconds(inputs(), 1)[1] == 0


def test_stage_three_moves_half_as_much_again() -> None:
    three = inputs(engines={"generator": EngineParameters(25_000_000, 0, 3)})
    assert step_seconds(three, 8)[1] == pytest.approx(1.5 * 2 * 7 / 8 * 0.1 + 14 * 0.001)


def test_workers_without_gpus_share_the_machine() -> None:
    one_machine = inputs(measured=Measurement(80.0, 2, gpu=False))
    assert step_seconds(one_machine, 4)[0] == 2 * step_seconds(one_machine, 2)[0] == pytest.approx(64 / 80)


def test_workers_without_gpus_are_faster_together_until_the_cpus_are_busy() -> None:
    one_thread_of_two = inputs(measured=Measurement(40.0, 1, gpu=False, full_at=2))
    assert [step_seconds(one_thread_of_two, n)[0] for n in (1, 2, 4)] == pytest.approx([16 / 40, 32 / 80, 64 / 80])


def test_a_single_worker_has_no_overhead_of_deepspeed() -> None:
    costly = Assumptions(engine_seconds=0.02)
    one_thread_of_two = inputs(measured=Measurement(40.0, 1, gpu=False, full_at=2), assumed=costly)
    assert [step_seconds(one_thread_of_two, n)[0] for n in (1, 2, 4)] == pytest.approx(
        [16 / 40, 32 / 80 + 0.02, 64 / 80 + 2 * 0.02]
    )
    assert [step_seconds(inputs(assumed=costly), n)[0] for n in (1, 8)] == pytest.approx([1.6 - 0.02, 1.6])
    plain = inputs(assumed=costly, engines={"generator": EngineParameters(25_000_000, 0, 0)})
    assert step_seconds(plain, 1)[0] == pytest.approx(1.6 - 0.02)


def test_rates_of_all_resources() -> None:
    measured = Measurement(80.0, 8, True, decode_clips_per_cpu_second=0.5)
    rates = resource_rates(inputs(measured=measured, corpus=CorpusSize(1000, 1e8, 4.0)), 8)
    assert set(rates) == {"GPU", "network", "S3 requests", "decoding"}
    assert rates["network"] == pytest.approx(20.0)
    assert rates["decoding"] == pytest.approx(24.0)
    assert rates["S3 requests"] == pytest.approx(5500 / 0.75)


def test_a_slow_network_makes_the_all_reduce_the_resource() -> None:
    rates = resource_rates(inputs(price=Price(2.0, 1.0, 1e7)), 8)
    assert rates["all-reduce"] == pytest.approx(128 / (1.6 + 17.5 + 0.014))
    assert "GPU" not in rates
