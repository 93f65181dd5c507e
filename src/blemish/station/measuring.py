"""What a station counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from blemish.station.models import Models
from blemish.station.settings import Settings
from blemish.station.worker import Judged

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
MILLISECONDS_TO_SECONDS = (0.0005, 0.001, 0.0025, *SECONDS)


class Metrics:
    """Counters and histograms of one station, in a registry of its own."""

    def __init__(self, settings: Settings, models: Models) -> None:
        self.registry = CollectorRegistry()
        self.inspections = Counter(
            "blemish_inspections", "Images judged and stored.", ["model", "version", "verdict"], registry=self.registry
        )
        self.waited = Histogram(
            "blemish_queue_seconds",
            "How long an image waited for its model.",
            ["model"],
            buckets=MILLISECONDS_TO_SECONDS,
            registry=self.registry,
        )
        self.judged = Histogram(
            "blemish_judging_seconds",
            "How long decoding, graph and decision took for an image.",
            ["model"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.stored = Histogram(
            "blemish_storing_seconds",
            "How long it took until the pictures and rows of a request were on the disk.",
            buckets=MILLISECONDS_TO_SECONDS,
            registry=self.registry,
        )
        self.requests = Histogram(
            "blemish_request_seconds",
            "How long a request took until its answer was complete.",
            ["method", "route", "status"],
            buckets=MILLISECONDS_TO_SECONDS,
            registry=self.registry,
        )
        self.refused = Counter("blemish_refused", "Requests refused, by code.", ["code"], registry=self.registry)
        self.open = Gauge("blemish_open_inspect_requests", "Requests to inspect now open.", registry=self.registry)
        self.draining = Gauge("blemish_draining", "1 once the station was told to stop.", registry=self.registry)
        limits = Gauge("blemish_limit", "What the station was told to allow.", ["limit"], registry=self.registry)
        limits.labels("queue_images").set(settings.queue)
        limits.labels("body_bytes").set(settings.max_body_bytes)
        self.registry.register(_ModelCollector(models))

    def count(self, judged: Judged) -> None:
        """Count an inspection that is stored."""
        version, verdict = judged.version, judged.inspection.verdict.value
        self.inspections.labels(version.model, version.number, verdict).inc()
        self.waited.labels(version.model).observe(judged.waited_s)
        self.judged.labels(version.model).observe(judged.judged_s)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)


class _ModelCollector(Collector):
    """The state of the models at the moment when it is asked for."""

    def __init__(self, models: Models) -> None:
        self.models = models

    def collect(self) -> Iterable[Metric]:
        waiting = GaugeMetricFamily("blemish_queue_images", "Images that wait for a model.", labels=["model"])
        ready = GaugeMetricFamily("blemish_model_ready", "1 if the model can judge.", labels=["model"])
        problem = GaugeMetricFamily(
            "blemish_model_problem", "1 if its file in the folder, or its version, is broken.", labels=["model"]
        )
        for state in self.models.states():
            waiting.add_metric([state.name], state.waiting)
            ready.add_metric([state.name], state.ready)
            problem.add_metric([state.name], state.problem is not None)
        return [waiting, ready, problem]
