"""Whether the emotions of a bundle differ visibly: the same speech with every emotion."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from s2v_ray.clip import Clip
from s2v_ray.evaluation.examples import ExampleWriter
from s2v_ray.evaluation.results import ContrastResult
from s2v_ray.evaluation.rows import FrameGenerator, generate_like
from s2v_ray.inference.request import GenerationRequest
from s2v_ray.metrics.emotion import Contrast, emotion_contrast

CONTRAST_CLIPS = 4
"""Number of clips whose speech is generated with every emotion."""

logger = logging.getLogger(__name__)


def contrast_emotions(
    clips: Sequence[Clip], predictor: FrameGenerator, seed: int, examples: ExampleWriter
) -> ContrastResult | None:
    """Generates the speech of at most ``CONTRAST_CLIPS`` clips of different speakers with every emotion and compares.

    Returns:
        The result, or None for a bundle with one emotion.
    """
    emotions = predictor.emotions
    if len(emotions) < 2:
        return None
    contrasts: list[Contrast] = []
    first_of_speakers = {clip.speaker: clip for clip in reversed(clips)}
    for clip in list(first_of_speakers.values())[:CONTRAST_CLIPS]:

        def generate(emotion: str, seed: int, clip: Clip = clip) -> np.ndarray:
            return generate_like(predictor, clip, GenerationRequest(clip.speech, emotion=emotion, seed=seed))

        frames = {emotion: generate(emotion, seed) for emotion in emotions}
        contrasts.append(emotion_contrast(frames, generate(emotions[0], seed + 1)))
        examples.add_emotions(clip, frames)
    logger.info("evaluate: compared %d emotions on %d clips", len(emotions), len(contrasts))
    worst = min(contrasts, key=lambda contrast: contrast.worst_share)
    return ContrastResult(
        share=float(np.mean([c.share for c in contrasts])),
        difference=float(np.mean([c.difference for c in contrasts])),
        noise=float(np.mean([c.noise for c in contrasts])),
        threshold=float(np.mean([c.threshold for c in contrasts])),
        worst_pair=list(worst.worst_pair),
        worst_share=worst.worst_share,
        clips=len(contrasts),
        emotions=list(emotions),
    )
