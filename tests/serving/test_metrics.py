from __future__ import annotations

from prometheus_client import generate_latest

from s2v_ray.serving.metrics import Metrics


def test_two_endpoints_in_one_process_count_apart() -> None:
    first, second = Metrics(), Metrics()
    first.frames.labels("default").inc(5)
    assert b's2v_frames_total{model="default"} 5.0' in generate_latest(first.registry)
    assert b"s2v_frames_total{" not in generate_latest(second.registry)


def test_names_of_metrics() -> None:
    """Dashboards and alerts refer to these names."""
    metrics = Metrics()
    metrics.requests.labels("/healthz", "200").inc()
    metrics.refused.labels("busy").inc()
    metrics.seconds.labels("/healthz").observe(0.1)
    metrics.first_byte.observe(0.1)
    metrics.frames.labels("default").inc()
    metrics.frame_seconds.labels("default").observe(0.01)
    metrics.failed.labels("default").inc()
    text = generate_latest(metrics.registry).decode()
    for name in (
        's2v_requests_total{path="/healthz",status="200"}',
        's2v_refused_total{code="busy"}',
        's2v_request_seconds_count{path="/healthz"}',
        "s2v_first_byte_seconds_count",
        's2v_frames_total{model="default"}',
        's2v_frame_seconds_count{model="default"}',
        's2v_failed_total{model="default"}',
        "s2v_videos",
        "s2v_sync",
        "s2v_live_limit",
    ):
        assert f"\n{name} " in text, name
