"""Mouths of recordings: how well the opening that an aligner gives follows from the sound, in other actors.

    python -m tests.bench.bench_mouths RECORDINGS [--every 8] [--json PATH]

RECORDINGS is a folder for ``puppets.voices``. The mouth's opening at each frame is predicted from 12 mel frames around
it (20 bands, normalised over the recording) by ridge regression with four folds of actors. Boundaries that are wrong
at random cannot be predicted, so a larger share of explained variance means better boundaries. Aligners: a linear
stretch of one template between the first and the last loud sample, time warping to one template, and
``puppets.warping``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import torch

from s2v_ray.media.audio import log_mel
from s2v_ray.media.ravdess import EMOTIONS
from s2v_ray.media.timing import MEL_PER_FRAME, SAMPLE_RATE, SAMPLES_PER_FRAME
from s2v_ray.puppets.mouth import mouth_track
from s2v_ray.puppets.recordings import Recording, list_recordings, read_recording
from s2v_ray.puppets.voice import Phoneme
from s2v_ray.puppets.warping import Template, align_phonemes, cepstra, make_templates, warp
from tests.helpers.results import write_result

Aligner = Callable[[np.ndarray, str], tuple[Phoneme, ...]]
FOLDS, RIDGE, BANDS, LOUD = 4, 30.0, 20, 0.05


def _phonemes(template: Template, edges: np.ndarray) -> tuple[Phoneme, ...]:
    rows = zip(template.phonemes, edges[:-1].tolist(), edges[1:].tolist(), strict=True)
    return tuple(Phoneme(*row) for row in rows)


def stretch(speech: np.ndarray, sentence: str) -> tuple[Phoneme, ...]:
    template = make_templates(sentence)[0]
    level = np.convolve(np.abs(speech), np.ones(400) / 400, "same")
    loud = np.flatnonzero(level > LOUD * level.max()) / SAMPLE_RATE
    share = (template.edges - template.edges[0]) / (template.edges[-1] - template.edges[0])
    return _phonemes(template, loud[0] + share * (loud[-1] - loud[0]))


def one_twin(speech: np.ndarray, sentence: str) -> tuple[Phoneme, ...]:
    template = make_templates(sentence)[0]
    rows = warp(template.features, cepstra(speech)).rows
    return _phonemes(template, np.interp(template.edges * 100, np.arange(len(rows)), rows) / 100)


ALIGNERS: dict[str, Aligner] = {
    "linear stretch": stretch,
    "time warping to one voice": one_twin,
    "time warping to the cheapest of six voices": align_phonemes,
}


def explained(recordings: list[Recording], speech: list[np.ndarray], aligner: Aligner) -> float:
    """Share of the variance of the opening that is explained in actors of other folds."""
    xs, ys = [], []
    for recording, samples in zip(recordings, speech, strict=True):
        frames = len(samples) // SAMPLES_PER_FRAME
        opening = mouth_track(aligner(samples, recording.sentence), frames).opening
        mel = log_mel(torch.from_numpy(samples[None, : frames * SAMPLES_PER_FRAME].copy()))[0].numpy().T
        mel = mel.reshape(len(mel), BANDS, -1).mean(2)
        mel = (mel - mel.mean(0)) / (mel.std(0) + 1e-6)
        at = np.arange(2, frames - 2)
        window = mel[at[:, None] * MEL_PER_FRAME + np.arange(-4, 8)].reshape(len(at), -1)
        xs.append(np.hstack([window, np.ones((len(at), 1))]))
        ys.append(opening[at])
    mean = np.concatenate(ys).mean()
    left = total = 0.0
    for fold in range(FOLDS):
        train = [i for i, recording in enumerate(recordings) if recording.actor % FOLDS != fold]
        x, y = np.concatenate([xs[i] for i in train]), np.concatenate([ys[i] for i in train]) - mean
        weights = np.linalg.solve(x.T @ x + RIDGE * np.eye(x.shape[1]), x.T @ y)
        for i in set(range(len(recordings))) - set(train):
            left += float(np.square(ys[i] - mean - xs[i] @ weights).sum())
            total += float(np.square(ys[i] - mean).sum())
    return 1 - left / total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings")
    parser.add_argument("--every", type=int, default=8)
    parser.add_argument("--json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    recordings = list_recordings(args.recordings, EMOTIONS).used[:: args.every]
    speech = [read_recording(recording) for recording in recordings]
    rows = []
    for name, aligner in ALIGNERS.items():
        share = round(explained(recordings, speech, aligner), 3)
        rows.append({"aligner": name, "explained variance": share, "recordings": len(recordings)})
        print(rows[-1], flush=True)
    if args.json:
        write_result(args.json, rows)


if __name__ == "__main__":
    main()
