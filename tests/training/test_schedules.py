import pytest

from s2v_ray.config import ScheduleConfig
from s2v_ray.training.schedules import is_updated, warmup_cosine, weight_at


def test_weight_ramps_from_its_start():
    schedule = ScheduleConfig(weight=0.4, start=100, ramp=4)
    assert [weight_at(schedule, s) for s in (0, 99, 100, 101, 103, 500)] == pytest.approx([0, 0, 0.1, 0.2, 0.4, 0.4])
    assert weight_at(ScheduleConfig(weight=0.4, start=2, ramp=0), 2) == 0.4


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
