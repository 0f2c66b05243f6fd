"""Last stage of ingest: rejects clips of low quality, by the limits that the recipe sets."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from s2v_ray.clip import Clip
from s2v_ray.config import IngestConfig
from s2v_ray.ingest.rejects import Reason, Reject
from s2v_ray.ingest.sources import SourceClip
from s2v_ray.media import face, voice


@dataclass(frozen=True)
class QualityFilter:
    """Checks files and clips against ``ingest.min_sharpness``, ``max_turn``, ``min_speech`` and ``min_sync``.

    Only what has a limit is measured.
    """

    config: IngestConfig

    def check_file(self, source: SourceClip) -> None:
        """Checks a file before it is decoded.

        Raises:
            Reject: picture and sound are not in sync, or it was not measured whether they are.
        """
        limit, confidence = self.config.min_sync, source.sync_confidence
        if confidence is None and limit > 0:
            raise Reject(Reason.OUT_OF_SYNC, "its offset was not measured, which ingest.min_sync demands")
        if confidence is not None and confidence < limit:
            raise Reject(
                Reason.OUT_OF_SYNC,
                f"its offset was measured with a confidence of {confidence:.2f}, ingest.min_sync is {limit}",
            )

    def check_clip(self, clip: Clip) -> None:
        """Checks a clip.

        Raises:
            Reject: it is blurred, the face is turned to the side, or there is little speech.
        """
        limits = self.config
        if limits.min_sharpness > 0 and (found := sharpness(clip.frames)) < limits.min_sharpness:
            raise Reject(Reason.BLURRED, f"a sharpness of {found:.1f}, ingest.min_sharpness is {limits.min_sharpness}")
        if limits.max_turn < 90 and (found := turn_of(clip)) > limits.max_turn:
            raise Reject(
                Reason.TURNED, f"the face is turned by {found:.0f} degrees, ingest.max_turn is {limits.max_turn}"
            )
        if limits.min_speech > 0 and (found := voice.speech_share(clip.speech)) < limits.min_speech:
            raise Reject(Reason.LITTLE_SPEECH, f"{found:.0%} of it is speech, ingest.min_speech is {limits.min_speech}")


def sharpness(frames: np.ndarray) -> float:
    """Returns the standard deviation of the Laplacian of uint8 ``[T, H, W, 3]`` in grey, mean over frames."""
    grey = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames)
    return float(np.mean([cv2.Laplacian(image, cv2.CV_64F).std() for image in grey]))


def turn_of(clip: Clip) -> float:
    """Returns by how much the face of a clip is turned to a side: median over frames, degrees in [0, 90]."""
    return float(np.median(np.abs(face.yaw(clip.landmarks))))
