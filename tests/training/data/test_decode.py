"""Windows are checked against clips whose pixels and speech encode the frame number."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from s2v_ray import shards
from s2v_ray.clip import ClipBatch
from s2v_ray.split_index import read_index
from s2v_ray.storage import ArtifactError
from s2v_ray.training.data import decode
from s2v_ray.training.data.decode import (
    READ_AHEAD,
    EncodedClip,
    Window,
    WindowSpec,
    choose_frames,
    collate,
    cut_window,
    decode_jobs,
    read_outputs,
)
from s2v_ray.training.data.plan import RowGroupJob
from tests.helpers.tiny_corpus import make_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_corpus(str(tmp_path_factory.mktemp("corpus")))


def jobs_of(corpus: str, epoch: int = 0) -> list[RowGroupJob]:
    """All clips of the train split, each row group once."""
    index = read_index(corpus, "train")
    return [
        RowGroupJob(epoch, index.shard_uri(int(shard)), int(group), tuple(range(int(rows))))
        for shard, group, rows in zip(index.shards, index.groups, np.diff(index.starts), strict=True)
    ]


def batches(corpus: str, epochs: int) -> list[ClipBatch]:
    jobs = [job for epoch in range(epochs) for job in jobs_of(corpus, epoch)]
    return [collate(windows) for windows in decode_jobs(jobs, WindowSpec(corpus, 6, 25, 1))]


def encoded(length: int, outputs: dict[str, np.ndarray] | None = None) -> EncodedClip:
    """Every pixel of frame k is 10 k; the samples of frame k are k + 1."""
    frames = [shards.encode_frame(np.full((16, 16, 3), 10 * k, np.uint8), 92) for k in range(length)]
    speech = np.repeat(np.arange(length, dtype="<i2") + 1, 640)
    return EncodedClip("clip", length, frames.__getitem__, speech.tobytes(), outputs or {})


def test_windows_agree_with_speech_references_and_teachers(corpus: str) -> None:
    for batch in batches(corpus, epochs=2):
        for i, clip in enumerate(batch.ids):
            number, length = int(clip[4:]), (20, 30, 45)[int(clip[4:]) % 3]
            red = batch.frames[i, :, 0, 0, 0].float() / 3  # JPEG is off by a level or two
            first = int(red[0].round())
            assert torch.allclose(red, torch.arange(first, first + 6.0), atol=0.7)
            start = int(batch.index[i, 0])
            assert batch.consecutive[i] and batch.index[i].tolist() == list(range(start, start + 6))
            samples = batch.speech[i].reshape(25, 640)[:, 0] * 1000
            assert torch.allclose(samples[start : start + 6], torch.arange(first, first + 6.0), atol=0.05)
            valid = int(batch.speech_mask[i].sum())
            assert valid == min(25, length) and bool(batch.speech_mask[i, :valid].all())
            assert batch.speech[i].reshape(25, 640)[valid:].abs().sum() == 0
            for reference in (batch.references[i, :, 0, 0, 0].float() / 3).round().tolist():
                assert reference < length and not first + 1 < reference < first + 4
            assert batch.identity is not None and int(batch.identity[i].argmax()) == number % 6
            assert batch.emotion is not None
            assert batch.emotion[i, :valid, 0].tolist() == [first - start + k for k in range(valid)]
            assert batch.emotion[i, :valid, 1].tolist() == [number] * valid
            assert batch.emotion[i, valid:].abs().sum() == 0
        assert batch.frames.dtype == torch.uint8 and batch.frames.shape[1:] == (6, 32, 32, 3)


def test_row_groups_are_read_ahead_but_never_all(corpus: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = WindowSpec(corpus, 6, 25, 1)
    jobs = jobs_of(corpus)
    alone = [clip["id"] for job in jobs for clip in next(decode_jobs([job], spec))]
    together, read, requested = threading.Barrier(READ_AHEAD), decode.read_group, []

    def read_with_others(job: RowGroupJob, spec: WindowSpec) -> object:
        requested.append(job)
        if len(requested) <= READ_AHEAD:
            together.wait(30)  # raises unless this many are read concurrently
        return read(job, spec)

    monkeypatch.setattr(decode, "read_group", read_with_others)
    found = []
    for n, clips in enumerate(decode_jobs(jobs, spec), start=1):
        found += [clip["id"] for clip in clips]
        assert len(requested) <= n + READ_AHEAD
    assert len(jobs) > READ_AHEAD and Counter(requested) == Counter(jobs)
    assert found == alone


def test_the_size_of_a_window_counts_frames_references_and_speech() -> None:
    assert WindowSpec("c", frames=4, speech_frames=10, seed=0).nbytes(16) == 6 * 16 * 16 * 3 + 10 * 640 * 2


def test_a_clip_shorter_than_the_speech_window_is_padded_with_silence() -> None:
    logits = np.arange(10, dtype=np.float32).reshape(5, 2)
    window = cut_window(encoded(5, {"emotion": logits}), WindowSpec("c", 3, 8, 0), epoch=0)
    assert window["speech"].reshape(8, 640)[:, 0].tolist() == [1, 2, 3, 4, 5, 0, 0, 0]
    assert window["speech_mask"].tolist() == [True] * 5 + [False] * 3
    assert window["emotion"].tolist() == [*logits.tolist(), *[[0.0, 0.0]] * 3]
    first = int(window["index"][0])  # the speech begins at frame 0, so this is the first target frame as well
    assert window["frames"][:, 0, 0, 0].tolist() == pytest.approx([10 * k for k in range(first, first + 3)], abs=2)


def shown(window: Window, name: str) -> list[int]:
    """Numbers of the frames of a window of ``encoded``."""
    return [round(int(level) / 10) for level in window[name][:, 0, 0, 0]]


def test_references_are_never_target_frames_if_there_are_enough_others() -> None:
    spec, clip = WindowSpec("c", 4, 4, 0), encoded(6)
    found = set()
    for epoch in range(60):
        window = cut_window(clip, spec, epoch)
        first = int(window["speech"][0]) - 1 + int(window["index"][0])
        found.add((first, *sorted(shown(window, "references"))))
    assert found == {(0, 4, 5), (1, 0, 5), (2, 0, 1)}


def test_a_window_of_the_whole_clip_takes_its_references_from_the_target_frames() -> None:
    spec = WindowSpec("c", 3, 3, 0)
    references = {k for epoch in range(40) for k in shown(cut_window(encoded(3), spec, epoch), "references")}
    assert references == {0, 1, 2}


def test_spread_frames_are_distinct_and_all_over_the_speech() -> None:
    spec, clip, gaps, places = WindowSpec("c", 3, 10, 0, window_share=0.0), encoded(25), set(), set()
    for epoch in range(200):
        window = cut_window(clip, spec, epoch)
        index, offset = window["index"].tolist(), int(window["speech"][0]) - 1
        assert not window["consecutive"] and index == sorted(set(index)) and index[0] >= 0 and index[-1] < 10
        assert shown(window, "frames") == [offset + k for k in index]
        assert not set(shown(window, "references")) & set(shown(window, "frames"))
        gaps |= set(np.diff(index).tolist())
        places |= set(shown(window, "frames"))
    assert gaps >= set(range(1, 7)) and places == set(range(25))


def test_the_window_share_is_that_of_consecutive_clips() -> None:
    spec = WindowSpec("c", 3, 10, 0, window_share=0.25)
    share = np.mean([choose_frames(spec, 25, np.random.default_rng(n))[2] for n in range(2000)])
    assert share == pytest.approx(0.25, abs=0.03)


def test_the_position_depends_on_seed_epoch_and_clip() -> None:
    def samples(seed: int = 0, epoch: int = 0, clip: str = "a") -> bytes:
        cut: Window = cut_window(replace(encoded(25), id=clip), WindowSpec("c", 2, 3, seed), epoch)
        return cut["speech"].tobytes()

    assert samples() == samples()
    assert len({samples(seed=n) for n in range(12)}) > 4
    assert len({samples(epoch=n) for n in range(12)}) > 4
    assert len({samples(clip=str(n)) for n in range(12)}) > 4


def test_collating_scales_samples_and_keeps_pixels() -> None:
    windows = [cut_window(encoded(5), WindowSpec("c", 2, 2, 0), 0) for _ in range(2)]
    windows[0]["speech"][:2], windows[1]["speech"][:2] = [32767, -32768], [0, -32767]
    batch = collate(windows)
    assert batch.speech[:, :2].tolist() == [[1.0, -1.0], [0.0, -1.0]], "-32768 is clamped"
    assert batch.frames.dtype == torch.uint8 and batch.frames.shape == (2, 2, 16, 16, 3)
    assert batch.ids == ["clip", "clip"] and batch.identity is None and batch.emotion is None


def test_outputs_are_those_of_the_rows_of_the_job(corpus: str) -> None:
    job = RowGroupJob(0, shards.shard_uris(corpus, "train")[0], 1, (2, 0))  # 8 clips in a row group
    codes = read_outputs(corpus, "identity", job, ["clip0010", "clip0008"])
    assert [int(code.argmax()) for code in codes] == [10 % 6, 8 % 6]
    (logits, _) = read_outputs(corpus, "emotion", job, ["clip0010", "clip0008"])
    assert logits.shape == (30, 3) and logits[7].tolist() == [7.0, 10.0, 0.0]


def test_outputs_of_other_clips_or_no_outputs_are_errors(corpus: str, tmp_path: Path) -> None:
    job = RowGroupJob(0, shards.shard_uris(corpus, "train")[0], 0, (0,))
    with pytest.raises(ArtifactError, match="emotion teacher's outputs .* belong to other clips"):
        read_outputs(corpus, "emotion", job, ["clip0001"])
    with pytest.raises(ArtifactError, match="belong to other clips"):
        read_outputs(corpus, "emotion", job._replace(group=2), ["clip0000"])  # the shard has two row groups
    with pytest.raises(ArtifactError, match="emotion teacher has no outputs .* run `s2v teach`"):
        read_outputs(str(tmp_path), "emotion", job, ["clip0000"])
