"""Whether a bundle shows the emotion that it is asked for: the same speech with every emotion, seen by the judge."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch

from s2v_ray.clip import Clip
from s2v_ray.evaluation.examples import ExampleWriter
from s2v_ray.evaluation.results import ConfusionResult
from s2v_ray.evaluation.rows import FrameGenerator, generate_like
from s2v_ray.inference.request import GenerationRequest
from s2v_ray.metrics.clip_metrics import judged_frames
from s2v_ray.metrics.emotion import clip_emotion, confusion_of
from s2v_ray.models.judges import EmotionJudge

FORCED_CLIPS, SHOWN_CLIPS = 12, 2
"""Number of clips whose speech is generated with every emotion, and of those that are kept as examples."""

logger = logging.getLogger(__name__)


@torch.inference_mode()
def force_emotions(
    clips: Sequence[Clip], predictor: FrameGenerator, judge: EmotionJudge | None, seed: int, examples: ExampleWriter
) -> ConfusionResult | None:
    """Generates the speech of at most ``FORCED_CLIPS`` clips with every emotion, and asks the judge what it sees.

    The clips are taken from all speakers in turn. Emotions that the judge does not know are generated for the examples
    only. Without a judge, the examples are all that is generated.

    Returns:
        The result, or None without a judge, or for a bundle with fewer than two emotions that the judge knows.
    """
    emotions = predictor.emotions
    if len(emotions) < 2:
        return None
    asked: list[str] = []
    seen: list[str] = []
    known = [emotion for emotion in emotions if judge is not None and emotion in judge.labels]
    chosen = take_turns(clips, FORCED_CLIPS if len(known) > 1 else SHOWN_CLIPS)
    for n, clip in enumerate(chosen):

        def generate(emotion: str, clip: Clip = clip) -> np.ndarray:
            return generate_like(predictor, clip, GenerationRequest(clip.speech, emotion=emotion, seed=seed))

        frames = {emotion: generate(emotion) for emotion in (emotions if n < SHOWN_CLIPS else known)}
        if n < SHOWN_CLIPS:
            examples.add_emotions(clip, frames)
        if judge is not None:
            asked += known
            seen += [clip_emotion(judge(judged_frames(frames[emotion])), judge.labels) for emotion in known]
    if judge is None or len(known) < 2:
        return None
    logger.info("evaluate: generated %d clips with each of %d emotions", len(chosen), len(emotions))
    found = confusion_of(asked, seen, judge.labels)
    return ConfusionResult(
        asked=list(found.asked),
        seen=list(found.seen),
        counts=[list(row) for row in found.counts],
        share=found.share,
        chance=found.chance,
        clips=len(chosen),
        unknown=[emotion for emotion in emotions if emotion not in known],
    )


def take_turns(clips: Sequence[Clip], count: int) -> list[Clip]:
    """The first ``count`` clips if the speakers take turns: the first clip of each, then the second of each, ..."""
    turns: dict[str, int] = {}
    order = []
    for n, clip in enumerate(clips):
        turns[clip.speaker] = turns.get(clip.speaker, -1) + 1
        order.append((turns[clip.speaker], n))
    return [clips[n] for _, n in sorted(order)[:count]]
