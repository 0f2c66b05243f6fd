"""The table of the metrics that training measures on the validation split."""

from __future__ import annotations

from s2v_ray.metrics.base import PSNR, SSIM, Metric

VALIDATION: dict[str, Metric] = {
    "l1": Metric("L1", "lower", "", 4, "mean absolute error of the window; frames range over [-1, 1]"),
    "mouth_l1": Metric("L1 mouth", "lower", "", 4, "mean absolute error in the mouth region"),
    "psnr": PSNR,
    "ssim": SSIM,
    "identity": Metric(
        "identity", "higher", "", 3, "mean cosine of a frame's identity (teacher) to that of the same real frame"
    ),
    "emotion": Metric(
        "emotion", "higher", "", 3, "share of clips to which the emotion teacher gives the emotion of the real clip"
    ),
    "sync": Metric(
        "sync",
        "higher",
        "",
        3,
        "confidence of the sync expert that the clip is in sync: median distance over offsets - distance at offset 0",
    ),
    "realism": Metric(
        "realism",
        "lower",
        "",
        4,
        "squared Fréchet distance between the identity teacher's codes of real and of generated frames",
    ),
    "identity_cosine": Metric(
        "identity cosine", "higher", "", 3, "mean cosine of the speech identity to the image identity"
    ),
    "emotion_agreement": Metric(
        "emotion agreement", "higher", "", 3, "share of clips for which student and emotion teacher give one emotion"
    ),
    "leak_emotion": Metric(
        "leak of emotion", "lower", "", 3, "accuracy of a linear probe for the teacher's emotion on the identity code"
    ),
    "leak_identity": Metric(
        "leak of identity", "lower", "", 3, "accuracy of a linear probe for the speaker on the emotion code"
    ),
}
"""Name -> description. Records in ``metrics.jsonl`` prefix the names with ``val_``."""
