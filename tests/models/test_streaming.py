"""The content of a stream equals that of the whole speech, for any chunks and batches, at constant memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from s2v_ray.config import StudentConfig
from s2v_ray.media.timing import SAMPLES_PER_FRAME
from s2v_ray.models.streaming import ContentEncoder, ContentState
from s2v_ray.models.student import Student
from tests.helpers.sounds import speech


def make_student(lookahead: int | None = 5, layers: int = 3) -> Student:
    torch.manual_seed(0)
    config = StudentConfig(width=12, layers=layers, content_dim=6, lookahead=lookahead)
    return Student(config, identity_dim=8, emotions=("a", "b")).eval()


@torch.no_grad()
def stream(encoder: ContentEncoder, sound: Tensor, sizes: list[int]) -> Tensor:
    """Content of speech that arrives in chunks of these sizes, and then the rest."""
    state, parts = encoder.open(), []
    edges = np.cumsum([0, *sizes, len(sound)]).clip(max=len(sound))
    for start, end in zip(edges[:-1], edges[1:], strict=True):
        encoder.push(state, sound[start:end])
        if end == len(sound):
            encoder.finish(state)
        while n := encoder.available(state):
            parts += encoder.encode([state], min(n, 1 + len(parts) % 3))
    return torch.cat(parts)


@pytest.mark.parametrize("lookahead", [2, 5, 9, None])
def test_the_content_of_a_stream_is_that_of_the_whole_speech(lookahead: int | None) -> None:
    student, sound = make_student(lookahead), torch.from_numpy(speech(2.0))
    encoder = ContentEncoder(student)
    with torch.no_grad():
        expected = student(sound[None]).content[0]
    assert expected.std() > 0.01
    rng = np.random.default_rng(1)
    for largest in (300, 20_000):
        sizes = [int(n) for n in rng.integers(1, largest, 400)]
        torch.testing.assert_close(stream(encoder, sound, sizes), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("frames", [1, 2, 3, 5])
def test_speech_shorter_than_the_context(frames: int) -> None:
    student, sound = make_student(), torch.from_numpy(speech(0.04 * frames))
    with torch.no_grad():
        expected = student(sound[None]).content[0]
    torch.testing.assert_close(stream(ContentEncoder(student), sound, []), expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_streams_at_different_positions_share_a_batch() -> None:
    student = make_student()
    encoder = ContentEncoder(student)
    sounds = [torch.from_numpy(speech(1.2, seed)) for seed in (1, 2)]
    states = [encoder.open(), encoder.open()]
    encoder.push(states[0], sounds[0])
    encoder.push(states[1], sounds[1])
    parts: list[list[Tensor]] = [encoder.encode(states[:1], 7), []]
    encoder.finish(states[0])
    encoder.finish(states[1])
    while both := min(map(encoder.available, states)):
        for kept, made in zip(parts, encoder.encode(states, min(both, 4)), strict=True):
            kept.append(made)
    while rest := encoder.available(states[1]):
        parts[1] += encoder.encode(states[1:], rest)
    for sound, kept in zip(sounds, parts, strict=True):
        torch.testing.assert_close(torch.cat(kept), student(sound[None]).content[0], atol=1e-5, rtol=0)


@torch.no_grad()
def test_content_is_known_after_the_look_ahead_and_the_state_is_of_constant_size() -> None:
    encoder = ContentEncoder(make_student(5))
    state = encoder.open()
    assert encoder.delay == 3  # two of the five frames are those of the mel windows and the 10 ms convolution
    sizes, made, received = set[tuple[int, ...]](), 0, 0
    for _ in range(60):
        encoder.push(state, torch.from_numpy(speech(0.04)))
        received += SAMPLES_PER_FRAME
        while n := encoder.available(state):
            made += sum(map(len, encoder.encode([state], n)))
        if received > 10 * SAMPLES_PER_FRAME:
            assert made == received // SAMPLES_PER_FRAME - encoder.delay - 1
            sizes.add(tuple(t.untyped_storage().nbytes() for t in state.tensors()))
    assert len(sizes) == 1


def test_an_empty_stream_has_no_content_and_a_part_of_a_frame_is_an_error() -> None:
    encoder = ContentEncoder(make_student())
    state: ContentState = encoder.open()
    encoder.finish(state)
    assert encoder.available(state) == 0
    state = encoder.open()
    encoder.push(state, torch.zeros(641))
    with pytest.raises(ValueError, match="641 samples of speech are not a whole number of frames"):
        encoder.finish(state)
