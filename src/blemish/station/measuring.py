"""What a station counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from blemish.station.drift import Monitor
from blemish.station.errors import StationError
from blemish.station.models import Models
from blemish.station.settings import Settings
from blemish.station.sinks import Senders
from blemish.station.sources import Sources
from blemish.station.worker import Judged

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
MILLISECONDS_TO_SECONDS = (0.0005, 0.001, 0.0025, *SECONDS)


class Metrics:
    """Counters and histograms of one station, in a registry of its own."""

    def __init__(
        self, settings: Settings, models: Models, monitor: Monitor, sources: Sources, senders: Senders
    ) -> None:
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
        self.registry.register(_FlowCollector(monitor, sources, senders))

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


class _FlowCollector(Collector):
    """Sources, sinks and drift at the moment when it is asked for them."""

    def __init__(self, monitor: Monitor, sources: Sources, senders: Senders) -> None:
        self.monitor = monitor
        self.sources = sources
        self.senders = senders

    def collect(self) -> Iterable[Metric]:
        yield from self._of_sources()
        try:
            yield from [*self._of_sinks(), *self._of_drift()]
        except StationError:
            return  # Without the database nobody knows; the rest is still worth telling.

    def _of_sources(self) -> Iterable[Metric]:
        events = CounterMetricFamily(
            "blemish_source_events", "What a source has done, by kind.", labels=["source", "event"]
        )
        connected = GaugeMetricFamily("blemish_source_connected", "1 if a source gives images.", labels=["source"])
        for source in self.sources.states():
            connected.add_metric([source.name], source.connected)
            for name, count in source.counts.items():
                events.add_metric([source.name, name], count)
        return events, connected

    def _of_sinks(self) -> Iterable[Metric]:
        delivered = CounterMetricFamily("blemish_sink_delivered", "Results that a sink has taken.", labels=["sink"])
        dropped = CounterMetricFamily(
            "blemish_sink_dropped", "Results that a sink did not get, for too many waited.", labels=["sink"]
        )
        waiting = GaugeMetricFamily("blemish_sink_waiting", "Results that wait for a sink.", labels=["sink"])
        dead = GaugeMetricFamily("blemish_sink_dead_letters", "Results that a sink has refused.", labels=["sink"])
        for sink in self.senders.states():
            for family, value in (
                (delivered, sink.delivered),
                (dropped, sink.dropped),
                (waiting, sink.waiting),
                (dead, sink.dead),
            ):
                family.add_metric([sink.name], value)
        return delivered, dropped, waiting, dead

    def _of_drift(self) -> Iterable[Metric]:
        labels = ["model", "version"]
        value = GaugeMetricFamily("blemish_drift_value", "Of the test for drift, 1 at first.", labels=labels)
        limit = GaugeMetricFamily("blemish_drift_limit", "Value at which it is an alarm.", labels=labels)
        alarm = GaugeMetricFamily("blemish_drift_alarm", "1 if there is an alarm.", labels=labels)
        for state, watch in self.monitor.states():
            names = [state.model, str(state.version)]
            value.add_metric(names, watch.value)
            limit.add_metric(names, watch.limit)
            alarm.add_metric(names, state.alarm is not None)
        return value, limit, alarm
