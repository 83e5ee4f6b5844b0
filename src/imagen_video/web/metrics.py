"""What a monitor asks for, in Prometheus' text format."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

# Seconds of a stage, from a tiny one to the last on two old cores.
BUCKETS = (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000)


class Metrics:
    """Counters of one server; `waiting` is asked when a monitor asks."""

    def __init__(self, waiting: Callable[[], int]):
        self._registry = registry = CollectorRegistry()
        queue = Gauge("imagen_video_queue_length", "Jobs that wait", registry=registry)
        queue.set_function(waiting)
        self._stages = Histogram(
            "imagen_video_stage_seconds",
            "Time of a stage with saving its video",
            ["stage"],
            buckets=BUCKETS,
            registry=registry,
        )
        self._ended = Counter(
            "imagen_video_jobs_ended", "Jobs that are over", ["status"], registry=registry
        )
        self._refused = Counter(
            "imagen_video_refused", "Prompts refused, videos withheld", ["what", "category"],
            registry=registry,
        )  # fmt: skip

    def stage(self, name: str, seconds: float) -> None:
        self._stages.labels(name).observe(seconds)

    def ended(self, status: str) -> None:
        self._ended.labels(status).inc()

    def refused(self, what: str, category: str) -> None:
        """`what` is "prompt" or "video"."""
        self._refused.labels(what, category).inc()

    def text(self) -> bytes:
        return generate_latest(self._registry)
