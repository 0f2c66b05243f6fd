import pytest
import torch

from s2v_ray.config import StudentConfig
from s2v_ray.media.timing import frames_to_samples
from s2v_ray.models.student import Student, perturb_colour, pool_statistics, spec_augment


@pytest.fixture
def student() -> Student:
    torch.manual_seed(0)
    return Student(StudentConfig(width=16, layers=2, emotion_dim=4, content_dim=6), 8, ("sad", "glad")).eval()


def test_shapes_and_ranges(student: Student):
    heard = student(0.1 * torch.randn(3, frames_to_samples(20)))
    assert heard.identity.shape == (3, 8) and heard.emotion.shape == (3, 4) and heard.emotion_logits.shape == (3, 2)
    assert heard.frame_logits.shape == (3, 20, 2) and heard.content.shape == (3, 20, 6)
    torch.testing.assert_close(heard.identity.norm(dim=-1), torch.ones(3))
    assert heard.emotion.abs().max() <= 1.0


def test_padding_is_not_heard(student: Student):
    speech = 0.1 * torch.randn(1, frames_to_samples(40))
    heard = torch.zeros(1, 40, dtype=torch.bool)
    heard[:, :20] = True
    louder = speech.clone()
    louder[:, frames_to_samples(20 + student.identity.frames.future_frames) :] *= 5.0
    a, b = student(speech, heard), student(louder, heard)
    torch.testing.assert_close(a.identity, b.identity)
    torch.testing.assert_close(a.emotion, b.emotion)


def test_content_depends_on_no_more_than_its_context(student: Student):
    speech = 0.1 * torch.randn(1, frames_to_samples(40))
    other = speech.clone()
    other[:, frames_to_samples(30) :] = 0.0
    a, b = student(speech).content, student(other).content
    same = 30 - student.future_frames
    torch.testing.assert_close(a[:, :same], b[:, :same])
    assert not torch.allclose(a[:, 29], b[:, 29])
    last = 40 - 1  # the end of the changed speech reaches back as far as the content of these frames
    start = speech.clone()
    start[:, : frames_to_samples(10)] = 0.0
    c = student(start).content
    torch.testing.assert_close(a[:, 10 + student.past_frames : last], c[:, 10 + student.past_frames : last])
    assert not torch.allclose(a[:, 10], c[:, 10])


@pytest.mark.parametrize(("lookahead", "past", "future"), [(5, 21, 5), (2, 24, 2), (None, 13, 13), (100, 13, 13)])
def test_lookahead_limits_the_frames_after(lookahead: int | None, past: int, future: int):
    config = StudentConfig(width=8, layers=4, emotion_dim=4, content_dim=6, lookahead=lookahead)
    student = Student(config, 8, ("sad", "glad"))
    assert (student.past_frames, student.future_frames) == (past, future)


def test_content_in_chunks_equals_content_at_once(student: Student):
    speech, past, future = 0.1 * torch.randn(1, frames_to_samples(50)), student.past_frames, student.future_frames
    whole = student(speech).content
    heard = speech[:, frames_to_samples(20 - past) : frames_to_samples(30 + future)]
    part = student(heard).content[:, past : past + 10]
    torch.testing.assert_close(whole[:, 20:30], part, atol=1e-5, rtol=1e-5)


def test_pool_statistics_by_hand():
    x = torch.tensor([[[1.0, 3.0, 100.0]]])
    mean, std = pool_statistics(x, torch.tensor([[True, True, False]]))[0]
    assert mean.item() == 2.0 and std.item() == pytest.approx(1.0, rel=1e-4)


def test_perturb_colour_keeps_the_time():
    torch.manual_seed(0)
    mel = torch.randn(4, 80, 50)
    change = perturb_colour(mel) - mel
    kept = change[0].std(dim=1) < 1e-5  # a change of level and tilt is constant over time, a masked band is not
    assert 80 - 12 <= int(kept.sum()) <= 80 and change.abs().max() > 0.1


def test_spec_augment_hides_at_most_its_share():
    torch.manual_seed(0)
    mel = torch.ones(50, 80, 100)
    hidden = spec_augment(mel, 0.2) == 0
    assert hidden.all(2).sum(1).max() <= 16 and hidden.all(1).sum(1).max() <= 20
    assert hidden.any()
