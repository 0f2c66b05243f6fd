"""Conversion between video frames and audio samples. All timing constants of the project are defined here.

A clip has 25 frames and 16,000 samples per second, so a frame spans exactly 640 samples and, at a mel hop of 160
samples, exactly 4 mel frames.
"""

FPS = 25
"""Video frames per second."""
SAMPLE_RATE = 16_000
"""Speech samples per second."""
SAMPLES_PER_FRAME = SAMPLE_RATE // FPS
"""Speech samples per video frame (640)."""
MEL_HOP = 160
"""Samples between mel frames (10 ms)."""
MEL_WINDOW = 400
"""Samples per mel frame (25 ms)."""
MEL_BINS = 80
"""Mel bands."""
MEL_PER_FRAME = SAMPLES_PER_FRAME // MEL_HOP
"""Mel frames per video frame (4)."""


def frames_to_samples(frames: int) -> int:
    """Returns the number of samples in ``frames`` video frames."""
    return frames * SAMPLES_PER_FRAME


def samples_to_frames(samples: int) -> int:
    """Returns the number of video frames that ``samples`` samples fill, rounded up so that no speech is cut off."""
    return -(-samples // SAMPLES_PER_FRAME)


def seconds_to_frames(seconds: float) -> int:
    """Returns the number of video frames nearest to ``seconds``."""
    return round(seconds * FPS)
