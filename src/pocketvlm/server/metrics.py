"""Prometheus metrics count finished requests and read the engine's counters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from pocketvlm.engine.driver import EngineDriver
from pocketvlm.server.admission import Admission
from pocketvlm.server.logs import Record
from pocketvlm.server.running import Run

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_LONG = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 120, 300, 900)
_SHORT = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25, 0.5, 1, 2.5)


class _EngineFigures:
    """The engine's own figures, one gauge for each number that it gives."""

    def __init__(self, driver: EngineDriver) -> None:
        self._driver = driver

    def collect(self) -> Iterator[Metric]:
        """Called by the registry for each scrape."""
        stats: Any = self._driver.stats()
        for field in fields(stats):
            value = getattr(stats, field.name)
            if isinstance(value, int | float):
                name = f"pocketvlm_engine_{field.name}"
                yield GaugeMetricFamily(name, f"Engine: {field.name.replace('_', ' ')}.", float(value))


class _AdapterFigures:
    """How many sequences of each loaded adapter run and wait."""

    def __init__(self, count: Callable[[], Mapping[str, tuple[int, int]]]) -> None:
        self._count = count

    def collect(self) -> Iterator[Metric]:
        """Called by the registry for each scrape."""
        family = GaugeMetricFamily(
            "pocketvlm_adapter_sequences", "Sequences of a loaded adapter.", labels=["adapter", "state"]
        )
        for name, (running, waiting) in self._count().items():
            family.add_metric([name, "running"], running)
            family.add_metric([name, "waiting"], waiting)
        yield family


class Metrics:
    """The figures of one server, in a registry of its own. adapters: running and waiting sequences of each adapter."""

    def __init__(
        self,
        admission: Admission,
        driver: EngineDriver,
        adapters: Callable[[], Mapping[str, tuple[int, int]]],
    ) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "pocketvlm_requests", "HTTP requests that ended.", ["route", "status"], registry=registry
        )
        self.finishes = Counter("pocketvlm_finished", "Choices by reason of their end.", ["reason"], registry=registry)
        tokens = {name: f"Tokens of requests: {name}." for name in ("prompt", "cached", "image", "completion")}
        self.tokens = {
            name: Counter(f"pocketvlm_{name}_tokens", text, registry=registry) for name, text in tokens.items()
        }
        self.seconds = Histogram(
            "pocketvlm_request_seconds", "From request to end of answer.", buckets=_LONG, registry=registry
        )
        self.ttft = Histogram(
            "pocketvlm_ttft_seconds", "From request to first token.", buckets=_LONG, registry=registry
        )
        self.gap = Histogram(
            "pocketvlm_inter_token_seconds", "Between tokens of a choice.", buckets=_SHORT, registry=registry
        )
        self.queue = Histogram("pocketvlm_queue_seconds", "Waiting for a place.", buckets=_LONG, registry=registry)
        for name, text, read in (
            ("running", "Sequences that run.", lambda: admission.running),
            ("waiting", "Sequences that wait.", lambda: admission.waiting),
            ("refused", "Requests refused because the queue was full.", lambda: admission.refused),
        ):
            Gauge(f"pocketvlm_{name}", text, registry=registry).set_function(read)
        registry.register(_EngineFigures(driver))
        registry.register(_AdapterFigures(adapters))

    def page(self) -> bytes:
        """The text that a scraper reads."""
        return generate_latest(self._registry)

    def answered(self, run: Run) -> None:
        """A run was read to its end or given up."""
        for choice in run.choices:
            self.finishes.labels(choice.finish_reason or "abort").inc()
        for gap in run.gaps:
            self.gap.observe(gap)

    def ended(self, record: Record, seconds: float) -> None:
        """An HTTP request has ended."""
        self.requests.labels(record.route or "other", str(record.status)).inc()
        if record.completion_tokens:
            self.seconds.observe(seconds)
            self.tokens["prompt"].inc(record.prompt_tokens)
            self.tokens["cached"].inc(record.cached_tokens)
            self.tokens["image"].inc(record.image_tokens)
            self.tokens["completion"].inc(record.completion_tokens)
        if record.ttft is not None:
            self.ttft.observe(record.ttft)
        if record.queue is not None:
            self.queue.observe(record.queue)
