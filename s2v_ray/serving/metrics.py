"""Prometheus metrics of one replica."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

REQUEST_SECONDS = (0.01, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 300)
FRAME_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.04, 0.1, 0.5)
FIRST_BYTE_SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)


class Metrics:
    """The metrics of this process, which is one replica.

    Attributes:
        registry: registry of all metrics.
        requests: counts requests by path and status.
        refused: counts error responses by code.
        seconds: seconds of requests to the last byte, by path.
        first_byte: seconds from the start of a request to the first byte of video.
        frames: counts generated frames by bundle.
        frame_seconds: seconds in which a frame of a video was generated, by bundle; the mean over the video.
        failed: counts videos whose generation failed, by bundle.
        sync: number of requests for videos that are read or answered.
        videos: number of videos that are queued or in progress.
        live: number of live sessions.
        live_limit: largest number of live sessions.
        live_skipped: counts frames that live sessions skipped, when a session has ended.
        live_lost: counts seconds of audio that clients declared lost, when a session has ended.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter("s2v_requests", "Requests by path and status.", ["path", "status"], registry=registry)
        self.refused = Counter("s2v_refused", "Error responses by code.", ["code"], registry=registry)
        self.seconds = Histogram(
            "s2v_request_seconds", "Seconds to the last byte.", ["path"], buckets=REQUEST_SECONDS, registry=registry
        )
        self.first_byte = Histogram(
            "s2v_first_byte_seconds",
            "Seconds from the start of a request to the first byte of video.",
            buckets=FIRST_BYTE_SECONDS,
            registry=registry,
        )
        self.frames = Counter("s2v_frames", "Generated frames by bundle.", ["model"], registry=registry)
        self.frame_seconds = Histogram(
            "s2v_frame_seconds",
            "Seconds in which a frame of a video was generated, by bundle.",
            ["model"],
            buckets=FRAME_SECONDS,
            registry=registry,
        )
        self.failed = Counter("s2v_failed", "Videos whose generation failed, by bundle.", ["model"], registry=registry)
        self.sync = Gauge("s2v_sync", "Requests for videos that are read or answered.", registry=registry)
        self.videos = Gauge("s2v_videos", "Videos that are queued or in progress.", registry=registry)
        self.live = Gauge("s2v_live_sessions", "Live sessions.", registry=registry)
        self.live_limit = Gauge("s2v_live_limit", "Largest number of live sessions.", registry=registry)
        self.live_skipped = Counter("s2v_live_skipped_frames", "Frames skipped by live sessions.", registry=registry)
        self.live_lost = Counter("s2v_live_lost_seconds", "Seconds of audio lost by live sessions.", registry=registry)
