"""Measures how many live sessions a loaded bundle can serve at full speed."""

from __future__ import annotations

import time

import numpy as np

from s2v_ray.inference.live import LiveRequest, LiveSession, advance
from s2v_ray.inference.predictor import Predictor
from s2v_ray.media.timing import FPS, frames_to_samples
from s2v_ray.serving.live_pool import LIVE_BATCH_FRAMES

LOAD = 0.6
"""Share of the time that live sessions may take. The remainder is for other requests, and for encoding frames."""
MAX_SESSIONS = 64
"""Largest capacity that is assumed."""
MEASURED_SESSIONS = (1, 4)
"""Numbers of sessions whose time is measured."""
MEASURED_FRAMES = 32
"""Frames of each session: more than a second, so that codes are predicted once."""


def measure_capacity(predictor: Predictor) -> int:
    """Measures how many sessions can be served at 25 frames per second, in the thread that owns the model.

    The time of a batch is taken as linear in the number of its sessions.

    Returns:
        the number of sessions, from 1 to ``MAX_SESSIONS``; 1 for a reference bundle, which has no live sessions.
    """
    if predictor.reference:
        return 1
    few, many = MEASURED_SESSIONS
    _run_sessions(predictor, few)  # allocations and compilation of the first calls
    seconds = [min(_run_sessions(predictor, count) for _ in range(2)) for count in MEASURED_SESSIONS]
    return capacity(seconds[0], seconds[1])


def capacity(few_seconds: float, many_seconds: float) -> int:
    """Number of sessions that take ``LOAD`` of the time.

    Args:
        few_seconds: time for ``MEASURED_FRAMES`` frames of each of ``MEASURED_SESSIONS[0]`` sessions.
        many_seconds: the same for ``MEASURED_SESSIONS[1]`` sessions.
    """
    few, many = MEASURED_SESSIONS
    per_session = max((many_seconds - few_seconds) / (many - few), many_seconds / many / 10)
    base = max(0.0, few_seconds - few * per_session)
    sessions = (LOAD * MEASURED_FRAMES / FPS - base) / per_session
    return min(MAX_SESSIONS, max(1, int(sessions)))


def _run_sessions(predictor: Predictor, count: int) -> float:
    """Runs sessions with noise instead of speech, from audio to pixels; returns the seconds that it took."""
    sessions = [LiveSession(predictor, LiveRequest(seed=seed)) for seed in range(count)]
    speech = 0.1 * np.random.default_rng(0).standard_normal(frames_to_samples(LIVE_BATCH_FRAMES)).astype(np.float32)
    began = time.perf_counter()
    while any(session.frames < MEASURED_FRAMES for session in sessions):
        for session in sessions:
            session.push(speech)
        if all(session.pending for session in sessions):
            advance(sessions, LIVE_BATCH_FRAMES)
    return time.perf_counter() - began
