"""Frames do not depend on chunk sizes, batches or the random state; unusable requests are refused before the work."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
import torch

from s2v_ray.inference.predictor import Predictor
from s2v_ray.inference.request import GenerationRequest
from s2v_ray.media.timing import SAMPLE_RATE, SAMPLES_PER_FRAME
from s2v_ray.models.take import NoiseSequence
from tests.helpers.bundles import DIM, EMOTIONS, SIZE
from tests.helpers.sounds import speech


def frames(chunks: Iterable[np.ndarray]) -> np.ndarray:
    return np.concatenate(list(chunks))


# ---- codes and content


def test_codes_of_one_chunk_are_those_of_the_student(predictor: Predictor) -> None:
    sound = speech(1.0)
    expected = predictor.model.student(torch.from_numpy(sound)[None])
    codes = predictor.encode_speech(sound)
    torch.testing.assert_close(codes.identity, expected.identity[0].detach(), atol=1e-6, rtol=0)
    torch.testing.assert_close(codes.emotion, expected.emotion[0].detach(), atol=1e-6, rtol=0)
    torch.testing.assert_close(codes.emotion_logits, expected.emotion_logits[0].detach(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("chunk", [1, 2, 7, 30, 74])
def test_content_does_not_depend_on_the_chunks(bundle: str, chunk: int) -> None:
    sound = torch.from_numpy(speech(3.0))  # 75 frames, several times the context
    chunked = Predictor(bundle, speech_chunk_frames=chunk)
    with torch.no_grad():
        expected = chunked.model.student(sound[None]).content
        parts = list(chunked._contents(sound))
    assert len(parts) == -(-75 // chunk)
    assert expected.std() > 0.01
    torch.testing.assert_close(torch.cat(parts, dim=1), expected, atol=1e-5, rtol=0)


def test_codes_of_long_speech_are_the_mean_over_chunks(bundle: str) -> None:
    sound = speech(1.2)  # 30 frames in spans of 10
    predictor = Predictor(bundle, speech_chunk_frames=12)
    spans = [sound[i * 10 * SAMPLES_PER_FRAME : (i + 1) * 10 * SAMPLES_PER_FRAME] for i in range(3)]
    parts = [predictor.encode_speech(span) for span in spans]
    mean = torch.stack([p.identity for p in parts]).mean(0)
    codes = predictor.encode_speech(sound)
    torch.testing.assert_close(codes.identity, mean / mean.norm(), atol=1e-5, rtol=0)
    torch.testing.assert_close(codes.emotion, torch.stack([p.emotion for p in parts]).mean(0), atol=1e-5, rtol=0)
    assert codes.identity.norm().item() == pytest.approx(1.0, abs=1e-6)


def test_codes_can_be_used_in_autograd(predictor: Predictor) -> None:
    weight = torch.zeros(DIM, requires_grad=True)
    (predictor.encode_speech(speech(0.2)).identity * weight).sum().backward()
    assert weight.grad is not None and weight.grad.norm() > 0


# ---- frames


def test_frames_do_not_depend_on_the_chunks(bundle: str, predictor: Predictor) -> None:
    sound = speech(3.0)
    request = GenerationRequest(sound, predictor.encode_speech(sound).identity, "happy", seed=3)
    expected = frames(predictor.generate(request))
    assert expected.std(axis=0).max() > 3  # something moves
    for speech_chunk, video_chunk in ((10, 3), (25, 64), (74, 1)):
        chunked = Predictor(bundle, speech_chunk_frames=speech_chunk, video_chunk_frames=video_chunk)
        parts = frames(chunked.generate(request))
        assert parts.shape == expected.shape == (75, SIZE, SIZE, 3)
        # A value on the edge of two grey levels may round either way.
        assert np.abs(parts.astype(int) - expected).max() <= 1


def test_no_network_processes_more_than_a_chunk(bundle: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory does not grow with the length of the speech."""
    predictor = Predictor(bundle, speech_chunk_frames=20, video_chunk_frames=6)
    encoded: list[int] = []
    generated: list[int] = []
    student, generator = predictor.model.student, predictor.model.generator
    content_of, forward = student.content_of, generator.forward
    monkeypatch.setattr(student, "content_of", lambda mel: encoded.append(mel.shape[2] // 4) or content_of(mel))
    monkeypatch.setattr(generator, "forward", lambda *codes: generated.append(codes[1].shape[1]) or forward(*codes))
    stream = predictor.generate(GenerationRequest(speech(10.0)))
    assert (encoded, generated) == ([], []), "nothing is computed before the first frame is asked for"
    assert len(next(stream)) == max(generated) == 6
    assert sum(map(len, stream)) == 250 - 6
    assert max(encoded) <= 20 + student.past_frames + student.future_frames
    assert max(generated) <= 6


def test_a_started_frame_counts(predictor: Predictor) -> None:
    sound = speech(1.0)
    assert len(frames(predictor.generate(GenerationRequest(sound[: 10 * SAMPLES_PER_FRAME])))) == 10
    assert len(frames(predictor.generate(GenerationRequest(sound[: 10 * SAMPLES_PER_FRAME + 1])))) == 11


def test_frames_depend_on_the_seed_only(predictor: Predictor) -> None:
    request = GenerationRequest(speech(0.5), seed=1)
    first = frames(predictor.generate(request))
    torch.manual_seed(99)
    assert np.array_equal(first, frames(predictor.generate(request)))
    assert not np.array_equal(first, frames(predictor.generate(replace(request, seed=2))))


def test_identity_and_emotion_can_be_given(predictor: Predictor) -> None:
    request = GenerationRequest(speech(0.5))
    identity = torch.nn.functional.normalize(torch.arange(DIM) - 15.5, dim=0)
    given = frames(predictor.generate(replace(request, identity=identity)))
    assert not np.array_equal(frames(predictor.generate(request)), given)
    assert np.array_equal(given, frames(predictor.generate(replace(request, identity=2 * identity))))
    shown = {name: frames(predictor.generate(replace(request, emotion=name))).tobytes() for name in EMOTIONS}
    assert len(set(shown.values())) == len(EMOTIONS)


def test_a_named_emotion_is_its_mean_code(bundle: str) -> None:
    predictor = Predictor(bundle)
    request = GenerationRequest(speech(0.5))
    predictor.model.student.emotion_codes[1] = predictor.encode_speech(request.speech).emotion
    named = frames(predictor.generate(replace(request, emotion="happy"))).astype(int)
    assert np.abs(named - frames(predictor.generate(request))).max() <= 1


def test_codes_can_be_predicted_from_the_first_frames_only(predictor: Predictor) -> None:
    sound = speech(3.0)
    limited = frames(predictor.generate(GenerationRequest(sound, code_frames=25)))
    codes = predictor.encode_speech(sound[: 25 * SAMPLES_PER_FRAME])
    given = frames(predictor.generate(GenerationRequest(sound, codes.identity, codes.emotion)))
    assert len(limited) == 75
    assert np.abs(limited.astype(int) - given).max() <= 1


def test_silence_is_speech_too(predictor: Predictor) -> None:
    silence = GenerationRequest(np.zeros(SAMPLE_RATE, np.float32))
    assert frames(predictor.generate(silence)).shape == (25, SIZE, SIZE, 3)


def test_a_reference_bundle_uses_a_still_of_any_size(reference_bundle: str) -> None:
    predictor = Predictor(reference_bundle)
    assert predictor.reference

    def generate(side: int, level: int) -> np.ndarray:
        still = np.full((side, side, 3), level, np.uint8)
        return frames(predictor.generate(GenerationRequest(speech(0.3), still=still)))

    assert not np.array_equal(generate(SIZE, 20), generate(77, 220))
    # A value on the edge of two grey levels may round either way.
    assert np.abs(generate(SIZE, 20).astype(int) - generate(77, 20)).max() <= 1


def test_a_take_is_drawn_with_the_seed_or_that_of_a_picture(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = speech(0.3)

    def generate(seed: int, level: int | None, side: int = SIZE) -> np.ndarray:
        take = None if level is None else np.full((side, side, 3), level, np.uint8)
        request = GenerationRequest(sound, take=take, seed=seed)
        return frames(predictor.generate(request)).astype(int)

    assert not np.array_equal(generate(0, None), generate(1, None))
    assert not np.array_equal(generate(0, 20), generate(0, 220))
    assert not np.array_equal(generate(0, 20), generate(1, 20)), "the noise of the frames"
    monkeypatch.setattr(NoiseSequence, "draw", lambda self, frames: torch.zeros(1, frames, 1, SIZE, SIZE))
    # The debug bundle has no motion prior, so with a given take the seed changes the noise only.
    assert np.array_equal(generate(0, 20), generate(1, 20))
    assert np.abs(generate(0, 20) - generate(0, 20, side=77)).max() <= 1


# ---- requests that are refused before anything is generated


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (GenerationRequest(np.zeros(0, np.float32)), "shorter than one video frame"),
        (GenerationRequest(speech(1.0)[: SAMPLES_PER_FRAME - 1]), "shorter than one video frame"),
        (GenerationRequest(np.full(6400, np.nan, np.float32)), "not finite"),
        (GenerationRequest(np.zeros((2, 6400), np.float32)), "must be mono"),
        (GenerationRequest(speech(0.2), emotion="bored"), "unknown emotion 'bored': .* neutral, happy, angry"),
        (GenerationRequest(speech(0.2), identity=torch.ones(3)), "identity must be 32 finite numbers"),
        (GenerationRequest(speech(0.2), identity=torch.full((DIM,), torch.nan)), "identity must be 32 finite numbers"),
        (GenerationRequest(speech(0.2), identity=torch.zeros(DIM)), "32 finite numbers that are not all 0"),
        (GenerationRequest(speech(0.2), still=np.zeros((SIZE, SIZE, 3), np.uint8)), "takes no still"),
        (GenerationRequest(speech(0.2), take=np.zeros((32, 48, 3), np.uint8)), "a take must be .* aligned crop"),
        (GenerationRequest(speech(0.2), code_frames=0), "code_frames must be at least 1"),
    ],
)
def test_unusable_requests_are_refused(predictor: Predictor, request_: GenerationRequest, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        predictor.generate(request_)


@pytest.mark.parametrize(
    ("still", "message"),
    [
        (None, "needs a still"),
        (np.zeros((32, 48, 3), np.uint8), "aligned crop"),
        (np.zeros((32, 32, 3), np.float32), "aligned crop"),
    ],
)
def test_unusable_stills_are_refused(reference_bundle: str, still: np.ndarray | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Predictor(reference_bundle).generate(GenerationRequest(speech(0.2), still=still))


def test_a_reference_bundle_refuses_a_take(reference_bundle: str) -> None:
    picture = np.zeros((SIZE, SIZE, 3), np.uint8)
    with pytest.raises(ValueError, match="whose still gives the take"):
        Predictor(reference_bundle).generate(GenerationRequest(speech(0.2), still=picture, take=picture))


def test_inference_imports_nothing_heavy() -> None:
    """`s2v generate` is timed as a whole, and a serving image needs none of these libraries."""
    heavy = {
        "ray",
        "deepspeed",
        "kornia",
        "onnxruntime",
        "sklearn",
        "scipy",
        "torchmetrics",
        "matplotlib",
        "pandas",
        "pyarrow",
        "cv2",
        "s3fs",
        "botocore",
    }
    script = f"import sys, s2v_ray.inference.writer; print(*sorted({heavy!r} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert found == []
