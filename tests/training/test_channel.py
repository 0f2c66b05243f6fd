"""The channel from workers to the driver, without Ray."""

from __future__ import annotations

import asyncio

from s2v_ray.training.channel import RunChannel
from s2v_ray.training.stalls import DATA, Activity


def test_log_records_are_drained_once() -> None:
    channel = RunChannel()
    channel.log({"msg": "a"})
    channel.log({"msg": "b"})
    assert channel.drain()[0] == [{"msg": "a"}, {"msg": "b"}]
    assert channel.drain()[0] == []


def test_a_worker_waits_for_the_acknowledgement_and_gets_the_decision() -> None:
    async def scenario() -> tuple[bool, bool]:
        channel = RunChannel()
        decisions = []
        for continues in (True, False):
            report = asyncio.create_task(channel.report({"step": 1}))
            await asyncio.sleep(0.01)
            assert not report.done() and channel.drain()[1] == [{"step": 1}]
            channel.ack(continues)
            decisions.append(await asyncio.wait_for(report, 5))
        return decisions[0], decisions[1]

    assert asyncio.run(scenario()) == (True, False)


def test_records_stay_until_they_are_acknowledged() -> None:
    channel = RunChannel()
    channel.records.append({"step": 1})
    assert channel.drain()[1] == channel.drain()[1] == [{"step": 1}]


def test_the_first_error_is_kept_and_the_result_returned() -> None:
    channel = RunChannel()
    assert channel.failure() is None
    first = ValueError("first")
    channel.fail(first)
    channel.fail(ValueError("second"))
    assert channel.failure() is first
    channel.finish({"step": 6})
    assert channel.result() == {"step": 6}


def test_a_stalled_worker_is_named_until_workers_start_anew() -> None:
    channel = RunChannel(stall_seconds=60.0)
    channel.activity(Activity(0, "h0", 3, DATA, 61.0))
    assert channel.stalled().endswith("worker 0 on h0 waits for data in step 3")
    channel.reset_activities()
    assert channel.stalled() == ""
