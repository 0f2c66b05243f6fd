"""The codes of a live session: predicted once from each segment, weighted by voiced frames, and changed smoothly."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from s2v_ray.inference.codes import EMOTION_SECONDS, SMOOTHING_SECONDS, CodeTracker
from s2v_ray.inference.predictor import Predictor
from s2v_ray.media.timing import SAMPLES_PER_FRAME
from s2v_ray.models.student import Student
from tests.helpers.sounds import speech

INITIAL = F.normalize(torch.ones(32), dim=0), torch.zeros(4)


@pytest.fixture(scope="module")
def student(predictor: Predictor) -> Student:
    return predictor.model.student


def sound(frames: int, seed: int = 0) -> Tensor:
    """Noise without pauses, so that every frame is voiced."""
    random = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(frames * SAMPLES_PER_FRAME, generator=random)


def draw_all(tracker: CodeTracker, frames: int, chunk: int) -> tuple[Tensor, Tensor]:
    parts = [tracker.draw(i, min(chunk, frames - i)) for i in range(0, frames, chunk)]
    identity, emotion = zip(*parts, strict=True)
    return torch.cat(identity), torch.cat(emotion)


@torch.no_grad()
def encode(student: Student, received: Tensor) -> tuple[Tensor, Tensor]:
    output = student(received[None], content=False)
    return output.identity[0], output.emotion[0]


def test_the_first_frames_have_the_initial_codes(student: Student) -> None:
    tracker = CodeTracker(student, INITIAL, None, None)
    tracker.push(sound(40))
    tracker.encode()
    identity, emotion = tracker.draw(0, 26)
    torch.testing.assert_close(identity[:25], INITIAL[0].expand(25, -1))
    torch.testing.assert_close(emotion[:25], INITIAL[1].expand(25, -1))
    assert not torch.equal(emotion[25], INITIAL[1])
    assert [update.frame for update in tracker.updates] == [25]


def test_codes_approach_the_means_over_the_segments(student: Student) -> None:
    received = sound(25 + 50)
    parts = received[: 25 * SAMPLES_PER_FRAME], received[25 * SAMPLES_PER_FRAME :]
    (first, second), frames = [encode(student, part) for part in parts], (25, 50)
    tracker = CodeTracker(student, INITIAL, None, None)
    tracker.push(received)
    tracker.encode()
    identity, emotion = draw_all(tracker, 400, 16)
    decayed = 25 * math.exp(-50 / (25 * EMOTION_SECONDS))
    mean = F.normalize(frames[0] * first[0] + frames[1] * second[0], dim=0)
    torch.testing.assert_close(identity[-1], mean, atol=1e-4, rtol=0)
    slow = (decayed * first[1] + 50 * second[1]) / (decayed + 50)
    torch.testing.assert_close(emotion[-1], slow, atol=1e-4, rtol=0)
    assert [(u.frame, u.voiced) for u in tracker.updates] == [(25, 25), (75, 75)]


def test_codes_change_by_a_bounded_share_in_each_frame(student: Student) -> None:
    tracker = CodeTracker(student, INITIAL, None, None)
    tracker.push(torch.cat([sound(100), 0.5 * sound(200, 3)]))
    tracker.encode()
    _, emotion = draw_all(tracker, 300, 7)
    steps = emotion.diff(dim=0).norm(dim=1)
    spread = (emotion - emotion.mean(0)).norm(dim=1).max() * 2
    assert steps.max() > 0
    assert steps.max() <= (1 - math.exp(-1 / (25 * SMOOTHING_SECONDS))) * spread * 1.5


@pytest.mark.parametrize("size", [100, 641, 30_000])
def test_codes_do_not_depend_on_the_chunks(student: Student, size: int) -> None:
    received = torch.from_numpy(speech(6.0))
    whole, chunked = CodeTracker(student, INITIAL, None, None), CodeTracker(student, INITIAL, None, None)
    whole.push(received)
    whole.encode()
    expected = draw_all(whole, 150, 16)
    drawn: list[tuple[Tensor, Tensor]] = []
    for i in range(0, len(received), size):
        chunked.push(received[i : i + size])
        chunked.encode()
        known = min(len(received), i + size) // SAMPLES_PER_FRAME - sum(student.content.futures) - 1
        while len(drawn) < known:
            drawn.append(chunked.draw(len(drawn), 1))
    for k in (0, 1):
        torch.testing.assert_close(torch.cat([d[k] for d in drawn]), expected[k][: len(drawn)], atol=1e-5, rtol=0)


def test_silence_does_not_change_the_codes(student: Student) -> None:
    tracker = CodeTracker(student, INITIAL, None, None)
    tracker.push(torch.cat([sound(30), torch.zeros(300 * SAMPLES_PER_FRAME)]))
    tracker.encode()
    draw_all(tracker, 330, 16)
    assert [u.voiced for u in tracker.updates] == [25]  # the second segment has five voiced frames, the others none
    assert len(tracker._received) < 100 * SAMPLES_PER_FRAME


def test_given_codes_are_constant_and_nothing_is_encoded(student: Student) -> None:
    identity, emotion = F.normalize(torch.arange(32.0), dim=0), torch.tensor([0.1, 0.2, 0.3, 0.4])
    tracker = CodeTracker(student, INITIAL, identity, emotion)
    tracker.push(sound(10))
    tracker.encode()
    drawn = tracker.draw(0, 3)
    torch.testing.assert_close(drawn[0], identity.expand(3, -1))
    torch.testing.assert_close(drawn[1], emotion.expand(3, -1))
    assert not tracker.updates
    assert not len(tracker._received)
