"""The evaluation with predictors and judges that read and draw known things."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad

from s2v_ray import shards, storage
from s2v_ray.clip import Clip
from s2v_ray.config import parse_recipe
from s2v_ray.evaluation.bars import bars
from s2v_ray.evaluation.evaluate import ROWS, evaluate_clips
from s2v_ray.evaluation.report import _shown, format_table, write_report
from s2v_ray.evaluation.sample import choose, read_sample, read_spoken
from s2v_ray.evaluation.student import student_figures
from s2v_ray.inference.request import GenerationRequest
from s2v_ray.media.face import mouth_box
from s2v_ray.media.timing import SAMPLES_PER_FRAME
from s2v_ray.media.video import read_video
from s2v_ray.models.judges import Judges

T, SIZE = 40, 32
EMOTIONS = ("happy", "sad", "angry")
SPEAKERS = ("ann", "bob")
RECIPE = parse_recipe(
    {
        "media": {"size": SIZE},
        "gan": {"generator": {"channels": [8, 8, 8, 8]}},
        "evaluate": {"bootstrap": 200, "contact_clips": 2},
    }
)
Y0, Y1, X0, X1 = mouth_box(SIZE)


def opening_of(speech: np.ndarray) -> np.ndarray:
    return speech.reshape(-1, SAMPLES_PER_FRAME)[:, 0]


def draw(opening: np.ndarray, speaker: int, emotion: int) -> np.ndarray:
    """A face whose brightness is the speaker, whose corner is the emotion, and whose mouth is as bright as it is open."""
    frames = np.full((len(opening), SIZE, SIZE, 3), 60 + 80 * speaker, np.uint8)
    frames[:, 8:18, 8:24, 0] = 20 + 60 * emotion
    frames[:, Y0:Y1, X0:X1] = (opening * 250).astype(np.uint8)[:, None, None, None]
    return frames


def clip_of(n: int, speaker: int, emotion: int, labelled: bool = True) -> Clip:
    opening = np.random.default_rng(n).random(T).astype(np.float32)
    speech = np.zeros(T * SAMPLES_PER_FRAME, np.float32)
    speech[::SAMPLES_PER_FRAME] = opening
    speech[1::SAMPLES_PER_FRAME], speech[2::SAMPLES_PER_FRAME] = speaker / 10, emotion / 10
    label = EMOTIONS[emotion] if labelled else ""
    truth = opening if labelled else None
    return Clip(
        f"c{n}",
        draw(opening, speaker, emotion),
        speech,
        SPEAKERS[speaker],
        label,
        f"s{n % 4}",
        "",
        np.zeros((T, 5, 2), np.float32),
        truth,
    )


def clips_of(count: int = 6, labelled: bool = True) -> list[Clip]:
    return [clip_of(n, n % 2, n % 3, labelled) for n in range(count)]


@dataclass
class Codes:
    identity: Tensor
    emotion: Tensor
    emotion_logits: Tensor


class Talker:
    """Draws what it hears; ``late`` frames late; with the wrong emotion if told so."""

    emotions = EMOTIONS

    def __init__(self, late: int = 0, always: int | None = None) -> None:
        self.late, self.always = late, always
        self.stills: list[np.ndarray] = []

    def generate(self, request: GenerationRequest) -> Iterator[np.ndarray]:
        if request.still is not None:
            self.stills.append(request.still)
        codes = self.encode_speech(request.speech)
        emotion = int(codes.emotion_logits.argmax()) if request.emotion is None else EMOTIONS.index(request.emotion)
        speaker = int((codes.identity if request.identity is None else request.identity)[1] > 0.5)
        opening = np.roll(opening_of(request.speech), self.late)
        frames = draw(opening, speaker, emotion if self.always is None else self.always)
        yield from (frames[:16], frames[16:])

    def encode_speech(self, speech: np.ndarray) -> Codes:
        who, mood = round(float(speech[1]) * 10), round(float(speech[2]) * 10)
        unit = torch.eye(3)
        return Codes(
            torch.eye(6)[who],
            unit[mood] + 0.01 * torch.randn(3, generator=torch.Generator().manual_seed(int(1e6 * speech[0]))),
            unit[mood],
        )


def identity(frames: np.ndarray) -> Tensor:
    return torch.eye(6)[torch.from_numpy((frames[:, 0, 0, 0] > 100).astype(int))]


class EmotionJudge:
    labels = EMOTIONS

    def __call__(self, frames: np.ndarray) -> Tensor:
        return torch.eye(3)[torch.from_numpy(((frames[:, 10, 10, 0] - 20) // 60).astype(int))]


def mouth(frames: np.ndarray) -> Tensor:
    return torch.from_numpy(frames[:, Y0:Y1, X0:X1].mean(axis=(1, 2, 3), dtype=np.float32) / 250)[:, None]


class SyncJudge:
    """Embeds the opening itself, as an angle."""

    window = 5

    def embed_speech(self, speech: Tensor) -> Tensor:
        return self._embed(speech.reshape(1, -1, SAMPLES_PER_FRAME)[:, :, 0])

    def embed_frames(self, frames: Tensor) -> Tensor:
        return self._embed((frames[:, :, 0, Y0, X0] + 1) * 127.5 / 250)

    def _embed(self, opening: Tensor) -> Tensor:
        angle = opening[:, : opening.shape[1] - self.window + 1] * 3
        return torch.stack([angle.cos(), angle.sin()], -1)


JUDGES = Judges(identity, EmotionJudge(), mouth, SyncJudge())


def run(
    predictor: Talker, reference: Talker | None = None, judges: Judges = JUDGES, labelled: bool = True
) -> dict[str, Any]:
    results, _ = evaluate_clips(
        clips_of(labelled=labelled), predictor, reference, identity, judges, RECIPE, lambda line: None
    )
    return results


def mean(results: dict[str, Any], row: str, metric: str) -> float:
    return results["rows"][row]["values"][metric]["mean"]


def test_a_perfect_talker_equals_the_real_clips() -> None:
    results = run(Talker(), reference := Talker())
    assert tuple(results["rows"]) == ROWS
    assert len(reference.stills) == 6
    for row in ("real clips", "reference baseline", "seen identity", "speech only"):
        assert results["rows"][row]["note"] == ""
        assert results["rows"][row]["lags"] == {"mouth": 0, "sync": 0}
        assert mean(results, row, "psnr") is None  # no error at all
        for metric, value in {
            "ssim": 1,
            "error_mouth": 0,
            "movement_mouth": 1,
            "acd": 0,
            "csim": 1,
            "emotion": 1,
            "mouth_lag": 0,
            "sync_offset": 0,
        }.items():
            assert mean(results, row, metric) == pytest.approx(value, abs=1e-5), (row, metric)
        assert mean(results, row, "mouth_correlation") > 0.999
        assert mean(results, row, "lse_d") < 0.02 < 0.4 < mean(results, row, "lse_c")
    assert results["contrast"]["share"] == 1.0
    json.dumps(results, allow_nan=False)


def test_a_still_does_not_move() -> None:
    results = run(Talker())
    assert mean(results, "still frame", "movement_mouth") == 0
    assert mean(results, "still frame", "mouth_correlation") == 0
    assert results["rows"]["still frame"]["lags"]["mouth"] is None
    assert mean(results, "still frame", "error_mouth") > 30
    assert mean(results, "still frame", "csim") == pytest.approx(1.0)


def test_a_late_talker_is_found_out() -> None:
    results = run(Talker(late=2))
    assert results["rows"]["speech only"]["lags"] == {"mouth": 2, "sync": -2}
    assert mean(results, "speech only", "mouth_lag") == 2
    assert mean(results, "speech only", "mouth_correlation") < 0.5


def test_one_emotion_for_all_is_found_out() -> None:
    results = run(Talker(always=1))
    assert mean(results, "speech only", "emotion") == pytest.approx(1 / 3)
    assert results["contrast"]["share"] == 0.0


def test_the_seen_identity_stands_for_a_missing_reference_and_says_so() -> None:
    rows = run(Talker())["rows"]
    assert "seen identity stands for it" in rows["reference baseline"]["note"]
    assert rows["reference baseline"]["values"] == rows["seen identity"]["values"]


def test_without_labels_the_judge_is_asked_about_the_real_clip() -> None:
    results = run(Talker(), labelled=False)
    assert "real clip" in results["emotion_truth"]
    assert mean(results, "speech only", "emotion") == 1.0
    assert "mouth_correlation" not in results["rows"]["speech only"]["values"]


def test_without_judges_their_figures_are_absent() -> None:
    results = run(Talker(), judges=Judges())
    assert results["missing_judges"] == ["identity", "emotion", "mouth", "sync"]
    assert not {"csim", "emotion", "lse_c", "mouth_correlation"} & set(results["rows"]["speech only"]["values"])


def test_frames_of_another_length_are_refused() -> None:
    class Short(Talker):
        def generate(self, request: GenerationRequest) -> Iterator[np.ndarray]:
            yield draw(opening_of(request.speech), 0, 0)[:-1]

    with pytest.raises(ValueError, match="do not fit"):
        run(Short())


def test_choose_is_even_and_seeded() -> None:
    speakers = [f"s{i // 40}" for i in range(160)]
    emotions = [f"e{i % 4}" if i % 40 < 8 else "neutral" for i in range(160)]
    found = choose(speakers, emotions, 20, seed=1)
    assert len(set(found)) == 20 and found == choose(speakers, emotions, 20, seed=1) != choose(
        speakers, emotions, 20, seed=2
    )
    assert [sum(speakers[i] == s for i in found) for s in sorted(set(speakers))] == [5] * 4
    assert all(3 <= sum(emotions[i] == e for i in found) <= 5 for e in set(emotions))
    assert choose(speakers, emotions, 999, seed=0) == list(range(160))


@pytest.fixture
def corpus(tmp_path: Any) -> str:
    uri = str(tmp_path / "corpus")
    parts = {"train": clips_of(24), "test": [clip_of(100 + n, n % 2, n % 3) for n in range(12)]}
    for split, clips in parts.items():
        for k in range(2):
            shard = storage.join(uri, split, f"part-{k:05d}.parquet")
            half = clips[k::2]
            shards.write_shard(shard, [shards.encode_clip(c) for c in half])
            rows = [shards.encode_output(c.id, identity(c.frames[:1])[0].numpy()) for c in half]
            shards.write_shard(shards.outputs_uri(uri, "identity", shard), rows, shards.OUTPUT_SCHEMA)
    storage.write_manifest(
        uri,
        "corpus",
        shards.CORPUS_SCHEMA,
        splits={split: {"shards": 2 if split in parts else 0} for split in shards.SPLITS},
    )
    return uri


def test_sample_reads_only_what_was_chosen(corpus: str) -> None:
    clips = read_sample(corpus, "test", 6, seed=0)
    assert sorted(c.speaker for c in clips) == ["ann"] * 3 + ["bob"] * 3
    assert [c.id for c in read_spoken(corpus, "test", 6, seed=0)] == [c.id for c in clips]
    with pytest.raises(storage.ArtifactError, match="no clips"):
        read_sample(corpus, "val", 6, seed=0)


def test_student_figures_of_perfect_and_clean_codes(corpus: str) -> None:
    found = student_figures(corpus, Talker(), RECIPE)
    assert found["emotion_accuracy"]["mean"] == 1.0
    assert found["identity_accuracy"]["mean"] == 1.0 and found["speakers"] == 2
    assert found["leak_emotion"]["accuracy"] <= found["leak_emotion"]["chance"] + 0.15
    assert found["leak_identity"]["accuracy"] <= found["leak_identity"]["chance"] + 0.15
    assert found["notes"] == []


def test_student_figures_find_a_leak_and_a_deaf_student(corpus: str) -> None:
    class Leaking(Talker):
        def encode_speech(self, speech: np.ndarray) -> Codes:
            codes = super().encode_speech(speech)
            return Codes(codes.identity + pad(codes.emotion, (3, 0)), codes.emotion, torch.eye(3)[0])

    found = student_figures(corpus, Leaking(), RECIPE)
    assert found["leak_emotion"]["accuracy"] > 0.9
    assert found["emotion_accuracy"]["mean"] == pytest.approx(1 / 3)


def test_report(corpus: str, tmp_path: Any) -> None:
    results, examples = evaluate_clips(
        clips_of(), Talker(late=1), Talker(), identity, JUDGES, RECIPE, lambda line: None
    )
    results["student"] = student_figures(corpus, Talker(), RECIPE)
    results |= {
        "schema": 1,
        "corpus": corpus,
        "bundle": str(tmp_path / "run" / "bundle"),
        "reference_bundle": None,
        "recipe": "t<e>st",
    }
    results |= {"config_digest": "d", "split": "test", "bars": bars(results)}
    storage.write_bytes(
        str(tmp_path / "run" / "metrics.jsonl"),
        b'{"step": 1, "loss/x": 3.0, "note": "a"}\n{"step": 2, "loss/x": 1.5}\n',
    )
    out = str(tmp_path / "out")
    with pytest.raises(storage.ArtifactError, match="no evaluation"):
        write_report(out, results)
    storage.write_bytes(storage.join(out, "examples.npz"), examples)
    paths = write_report(out, results)
    assert set(paths) == {"results", "report", "contact", "emotions", "sample"}

    page = storage.read_bytes(paths["report"]).decode()
    assert "t&lt;e&gt;st" in page and "loss/x: 3 to 1.5" in page and page.count("data:image/png;base64,") == 2
    video = read_video(paths["sample"])
    assert len(video.frames) == T and video.frames[0].shape[1] > 2 * video.frames[0].shape[0]

    table = format_table(results)
    assert all(row in table for row in ROWS)
    verdicts = {bar["key"]: bar["met"] for bar in results["bars"]}
    assert (
        verdicts["student_emotion"]
        and verdicts["emotion_contrast"]
        and not verdicts["mouth_lag"]
        and not verdicts["mouth_correlation"]
    )


def test_pictures_say_who_stands_for_the_reference() -> None:
    rows = run(Talker())["rows"]
    assert _shown({"rows": rows}, "reference baseline") == ("reference: seen identity", "seen identity")
    assert _shown({"rows": rows}, "speech only") == ("speech only", "speech only")
