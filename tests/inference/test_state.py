from __future__ import annotations

import pytest
import torch

from s2v_ray.config import GeneratorConfig
from s2v_ray.inference.state import CodeAverage, GenerationState, split_evenly
from s2v_ray.models.student import StudentOutput
from s2v_ray.models.take import MotionPrior, MotionSequence, NoiseSequence


def output(identity: list[float], emotion: float) -> StudentOutput:
    """Output of the student for a batch of one."""
    empty = torch.zeros(1, 0, 1)
    return StudentOutput(
        torch.tensor([identity]), torch.tensor([[emotion]]), torch.tensor([[2 * emotion]]), empty, empty
    )


def state(frames: int, spans: list[tuple[int, int]], identity_code: torch.Tensor | None = None) -> GenerationState:
    contents = iter([torch.zeros(1, frames - 1, 3), torch.ones(1, 1, 3)])
    config = GeneratorConfig(motion_dim=2, motion_clips=1)
    motion = MotionSequence(MotionPrior(config), torch.Generator().manual_seed(0))
    speech, white = torch.zeros(frames * 640), torch.zeros(4)
    noise = NoiseSequence(4, torch.Generator())
    return GenerationState(speech, identity_code, None, None, None, white, motion, noise, contents, spans)


def test_spans_cover_everything_evenly() -> None:
    assert list(split_evenly(250, 250)) == [(0, 250)]
    assert list(split_evenly(251, 250)) == [(0, 125), (125, 251)]
    assert list(split_evenly(7, 3)) == [(0, 2), (2, 4), (4, 7)]


def test_average_weights_chunks_by_their_frames() -> None:
    average = CodeAverage()
    average.add(output([1.0, 0.0], 1.0), 3)
    average.add(output([0.0, 1.0], 5.0), 1)
    codes = average.mean()
    assert average.frames == 4
    torch.testing.assert_close(codes.identity, torch.tensor([3.0, 1.0]) / 10**0.5)
    assert codes.emotion.item() == pytest.approx(2.0)
    assert codes.emotion_logits.item() == pytest.approx(4.0)


def test_a_state_is_ready_after_its_last_span() -> None:
    made = state(5, [(0, 3), (3, 5)])
    made.add_codes(output([1.0, 0.0], 1.0), 3)
    assert not made.ready
    made.add_codes(output([1.0, 0.0], 6.0), 2)
    assert made.ready and not made.pending_spans
    assert made.emotion_code is not None and made.emotion_code.item() == pytest.approx(3.0)


def test_a_given_code_is_kept() -> None:
    given = torch.tensor([0.0, 1.0])
    made = state(5, [(0, 5)], given)
    made.add_codes(output([1.0, 0.0], 1.0), 5)
    assert made.ready and made.identity_code is given


def test_next_inputs_are_at_most_what_one_chunk_of_content_holds() -> None:
    made = state(6, [])
    content, motion, noise = made.next_inputs(4)
    assert content.shape == (1, 4, 3) and motion.shape == (1, 4, 2) and noise.shape == (1, 4, 1, 4, 4)
    assert made.remaining_frames == 2
    assert made.next_inputs(4)[0].shape[1] == 1, "the rest of the first chunk"
    last, *_ = made.next_inputs(4)
    assert last.eq(1.0).all() and last.shape[1] == 1
    assert made.remaining_frames == 0
