"""Frames <-> samples: every timing constant of the project, and nothing else.

A clip runs at 25 frames a second and 16,000 samples a second, so a frame is exactly 640 samples and, at a mel hop of
160 samples, exactly 4 mel frames. Nothing outside this module may spell these numbers.
"""

FPS = 25
"""Video frames a second."""
SAMPLE_RATE = 16_000
"""Speech samples a second."""
SAMPLES_PER_FRAME = SAMPLE_RATE // FPS
"""Speech samples under one video frame (640)."""
MEL_HOP = 160
"""Samples between mel frames (10 ms)."""
MEL_WINDOW = 400
"""Samples under one mel frame (25 ms)."""
MEL_BINS = 80
"""Mel bands."""
MEL_PER_FRAME = SAMPLES_PER_FRAME // MEL_HOP
"""Mel frames under one video frame (4)."""


def frames_to_samples(frames: int) -> int:
    """Samples under ``frames`` video frames."""
    return frames * SAMPLES_PER_FRAME


def samples_to_frames(samples: int) -> int:
    """Whole video frames that ``samples`` cover; a started frame counts, so that no speech is cut off."""
    return -(-samples // SAMPLES_PER_FRAME)


def seconds_to_frames(seconds: float) -> int:
    """Video frames nearest to ``seconds``."""
    return round(seconds * FPS)
