"""Phonemes of a recording of a known sentence, by dynamic time warping against the same sentence by espeak-ng.

The synthetic utterances (templates) come with the times of their phonemes. Mel cepstra of recording and template are
aligned (Sakoe and Chiba 1978), and each boundary is moved along the path. Of templates with different pitch and vocal
tract, the one with the cheapest path is used.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import scipy.fft
import torch

from s2v_ray.media.audio import log_mel, resample
from s2v_ray.media.timing import MEL_HOP, SAMPLE_RATE
from s2v_ray.puppets.espeak import RATE
from s2v_ray.puppets.voice import Phoneme, Voice, speak

_CEPSTRA = 13
_LEVEL = 2.0  # weight of the level and its slope, relative to the other cepstra
_RANGE, _ACTIVE = 2.5, 1.6  # below the loudest mel energies and frames, in units of ``log_mel`` (17 dB)
_DIAGONAL = 1.5  # weight of a diagonal step; less than 2 prefers a constant tempo
_TEMPLATES = ((95.0, 84.0), (115.0, 90.0), (150.0, 98.0), (190.0, 106.0), (215.0, 112.0), (240.0, 118.0))
"""Pitch, Hz, and formants, percent of espeak-ng's, of the templates."""
_FRAME = MEL_HOP / SAMPLE_RATE


@dataclass(frozen=True)
class Template:
    """A synthetic utterance.

    Attributes:
        features: float64 ``[N, D]``, one row per 10 ms.
        phonemes: names.
        edges: float64 ``[P + 1]``, seconds: the start of each phoneme and the end of the last.
    """

    features: np.ndarray
    phonemes: tuple[str, ...]
    edges: np.ndarray


@functools.lru_cache(maxsize=8)
def make_templates(sentence: str) -> tuple[Template, ...]:
    """Speaks ``sentence`` in several American voices that have the same phonemes."""
    templates = []
    for pitch, throat in _TEMPLATES:
        voice = Voice("en-US", pitch, (throat,) * 6, 100.0, 0, 0, 1.0, (1000.0, 3000.0))
        speech = speak(voice, "neutral", sentence)
        edges = [p.start for p in speech.phonemes] + [speech.phonemes[-1].end]
        names = tuple(p.phoneme for p in speech.phonemes)
        templates.append(Template(cepstra(resample(speech.samples, RATE)), names, np.array(edges)))
    return tuple(templates)


def align_phonemes(speech: np.ndarray, sentence: str) -> tuple[Phoneme, ...]:
    """Finds the phonemes of a recording.

    Args:
        speech: float32 ``[N]``, 16 kHz; with silence or without at both ends.
        sentence: its words.

    Returns:
        the phonemes of espeak-ng in order, without gaps. Very short ones that the path skips are left out.
    """
    features = cepstra(speech)
    warped = [(template, warp(template.features, features)) for template in make_templates(sentence)]
    template, path = min(warped, key=lambda pair: pair[1].cost)
    edges = np.interp(template.edges / _FRAME, np.arange(len(path.rows)), path.rows) * _FRAME
    return tuple(
        Phoneme(name, float(start), float(end))
        for name, start, end in zip(template.phonemes, edges[:-1], edges[1:], strict=True)
        if end > start
    )


def cepstra(speech: np.ndarray) -> np.ndarray:
    """Computes mel cepstra and their slopes, float64 ``[M, 26]``, one row per 10 ms.

    Energies far below the loudest are raised to a floor. Each column has zero mean and unit variance over the loud
    frames of the utterance, which removes most of the speaker, the channel and the length of the silence.
    """
    samples = np.zeros(-(-len(speech) // MEL_HOP) * MEL_HOP, np.float32)
    samples[: len(speech)] = speech
    mel = log_mel(torch.from_numpy(samples)[None])[0].numpy().astype(np.float64)
    level = mel.mean(0)
    active = level > np.quantile(level, 0.95) - _ACTIVE
    mel = np.maximum(mel, np.quantile(mel, 0.99) - _RANGE)
    still = scipy.fft.dct(mel, axis=0, norm="ortho")[:_CEPSTRA].T
    found = np.concatenate([still, _slopes(still)], axis=1)
    normal: np.ndarray = (found - found[active].mean(0)) / (found[active].std(0) + 1e-6)
    normal[:, [0, _CEPSTRA]] *= _LEVEL
    return normal


def _slopes(rows: np.ndarray) -> np.ndarray:
    """Returns the slopes of ``rows`` over five rows, by least squares."""
    padded = np.pad(rows, ((2, 2), (0, 0)), mode="edge")
    slopes: np.ndarray = (2.0 * (padded[4:] - padded[:-4]) + padded[3:-1] - padded[1:-3]) / 10.0
    return slopes


@dataclass(frozen=True)
class Path:
    """How one sequence is aligned with another.

    Attributes:
        rows: float64 ``[N]``, the mean row of the second sequence that each row of the first is aligned with.
        cost: of the path, divided by the sum of both lengths.
    """

    rows: np.ndarray
    cost: float


def warp(first: np.ndarray, second: np.ndarray) -> Path:
    """Aligns two sequences ``[N, D]`` and ``[M, D]`` by dynamic time warping with Euclidean distances."""
    squares = (first**2).sum(1)[:, None] + (second**2).sum(1) - 2.0 * first @ second.T
    distance = np.sqrt(squares.clip(0.0))
    total = _accumulate(distance)
    rows, columns = _trace(total, distance)
    n = len(first)
    mean = np.bincount(rows, columns, n) / np.bincount(rows, minlength=n)
    return Path(mean, float(total[-1, -1]) / (n + len(second)))


def _accumulate(distance: np.ndarray) -> np.ndarray:
    """Returns the smallest cost of a path to each cell ``[N, M]``.

    Within a row, ``total[j] = min(before[j], total[j - 1] + distance[j])``; without the running sum of the distances
    that is a running minimum.
    """
    total = np.empty_like(distance)
    total[0] = np.cumsum(distance[0])
    for i in range(1, len(distance)):
        before = total[i - 1] + distance[i]
        before[1:] = np.minimum(before[1:], total[i - 1, :-1] + _DIAGONAL * distance[i, 1:])
        run = np.cumsum(distance[i])
        total[i] = run + np.minimum.accumulate(before - run)
    return total


def _trace(total: np.ndarray, distance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the cells of the cheapest path from the first to the last: rows and columns, int64 ``[L]`` each."""
    i, j = total.shape[0] - 1, total.shape[1] - 1
    path = [(i, j)]
    while i or j:
        steps = [(i - 1, j - 1, _DIAGONAL), (i - 1, j, 1.0), (i, j - 1, 1.0)]
        i, j, _ = min(
            (step for step in steps if step[0] >= 0 and step[1] >= 0),
            key=lambda step: total[step[0], step[1]] + step[2] * distance[path[-1]],
        )
        path.append((i, j))
    rows, columns = np.array(path[::-1]).T
    return rows, columns
