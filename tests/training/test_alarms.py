"""Alarms: when they are triggered and when not."""

from __future__ import annotations

import pytest

from s2v_ray.training.alarms import PATIENCE, AlarmMonitor
from s2v_ray.training.tasks import known_alarms

ALARMS = known_alarms()

WELL = {
    "data_wait": 0.02,
    "d_frame": 1.8,
    "g_frame": 0.1,
    "d_mouth": 1.7,
    "g_mouth": 0.0,
    "d_motion": 1.7,
    "g_motion": 0.0,
    "d_emotion": 2.0,
    "g_emotion": 1.1,
    "g_sync": 0.2,
    "sync_weight": 1.0,
    "identity_similarity": 0.3,
    "identity_similarity_teacher": 0.3,
    "emotion_majority": 0.3,
    "emotion_majority_teacher": 0.3,
}
DEAD = {
    "data_starved": {"data_wait": 0.3},
    "frame_discriminator_saturated": {"d_frame": 0.01},
    "frame_discriminator_at_chance": {"d_frame": 1.99},
    "mouth_discriminator_saturated": {"d_mouth": 0.01},
    "mouth_discriminator_at_chance": {"d_mouth": 1.99},
    "motion_discriminator_saturated": {"d_motion": 0.01},
    "motion_discriminator_at_chance": {"d_motion": 1.99},
    "emotion_discriminator_saturated": {"d_emotion": 0.01, "g_emotion": 6.0},
    "sync_at_chance": {"g_sync": 1.0},
    "identity_collapse": {"identity_similarity": 0.99},
    "emotion_collapse": {"emotion_majority": 1.0},
}


def monitor() -> AlarmMonitor:
    return AlarmMonitor(ALARMS)


def test_every_alarm_has_its_case_and_a_healthy_run_triggers_none() -> None:
    assert set(DEAD) == {a.name for a in ALARMS}
    alarms = monitor()
    assert not any(alarms.update(WELL) for _ in range(10)) and not alarms.active()
    assert not any(monitor().update({}) for _ in range(10))  # a task that does not log a scalar has no such alarm


@pytest.mark.parametrize("name", DEAD)
def test_it_is_triggered_alone_after_some_records_and_only_once(name: str) -> None:
    alarms, dead = monitor(), WELL | DEAD[name]
    found = [[a.name for a in alarms.update(dead)] for _ in range(6)]
    assert found == [[], [], [name], [], [], []] and PATIENCE == 3 and alarms.active() == [name]
    alarms.update(WELL)
    assert alarms.active() == []
    assert [bool(alarms.update(dead)) for _ in range(3)] == [False, False, True]  # off and on again


def test_what_is_similar_in_the_corpus_is_no_collapse() -> None:
    one_speaker = WELL | {"identity_similarity": 0.99, "identity_similarity_teacher": 0.97}
    all_neutral = WELL | {"emotion_majority": 1.0, "emotion_majority_teacher": 1.0}
    ramping = WELL | {"g_sync": 1.0, "sync_weight": 0.4}
    for record in (one_speaker, all_neutral, ramping):
        alarms = monitor()
        assert not any(alarms.update(record) for _ in range(5))
