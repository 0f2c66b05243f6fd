import pytest
import torch

from s2v_ray.config import ScheduleConfig
from s2v_ray.training.schedules import is_updated, one_cycle, ramp_at, warmup_cosine


def test_weights_ramp_from_their_start():
    schedule = ScheduleConfig(weight=0.4, start=100, ramp=4)
    assert [ramp_at(schedule, s) for s in (0, 99, 100, 101, 103, 500)] == [0, 0, 0.25, 0.5, 1, 1]
    assert ramp_at(ScheduleConfig(weight=0.4, start=2, ramp=0), 2) == 1.0


def test_a_head_start_updates_before_the_weight_is_above_0():
    schedule = ScheduleConfig(weight=1.0, start=5, head_start=3, interval=2)
    assert [s for s in range(9) if is_updated(schedule, s)] == [2, 4, 6, 8]


def test_update_interval_counts_from_the_start():
    schedule = ScheduleConfig(weight=1.0, start=5, interval=3, lr=1e-4)
    assert [s for s in range(15) if is_updated(schedule, s)] == [5, 8, 11, 14]
    assert not is_updated(schedule.model_copy(update={"lr": 0.0}), 5)
    assert not is_updated(schedule.model_copy(update={"weight": 0.0}), 5)


def test_learning_rate_warms_up_and_falls():
    assert warmup_cosine(0, 1000, 1.0) == pytest.approx(1 / 50)
    assert warmup_cosine(49, 1000, 1.0) == 1.0
    assert warmup_cosine(525, 1000, 1.0) == pytest.approx(0.51)
    assert warmup_cosine(1000, 1000, 1.0) == pytest.approx(0.02)


@pytest.mark.parametrize("steps", [7, 60, 1000])
def test_one_cycle_equals_torch_to_the_bit(steps: int) -> None:
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for step in range(steps):
        group = optimizer.param_groups[0]
        assert one_cycle(step, steps, 3e-3) == (group["lr"], group["betas"][0])
        optimizer.step()
        if step + 1 < steps:
            schedule.step()
