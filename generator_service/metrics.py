"""Counts of the requests and answers of the service, in Prometheus' format."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

if TYPE_CHECKING:
    from collections.abc import Callable

_SECONDS = (0.001, 0.01, 0.1, 0.5, 1, 5, 30, 120, 600)
NO_ROUTE = "none"
"""The route of requests that no route answers."""


def forget_process(pid: int) -> None:
    """Leave out what a process that has ended was doing; what it counted stays."""
    mark_process_dead(pid)


class Metrics:
    """The metrics of the service; `render` gives them to whoever asks for /metrics.

    They are those of one process, or the sums of several which prometheus_client shares by files in
    PROMETHEUS_MULTIPROC_DIR. Then there are none of memory and CPU.
    """

    def __init__(self) -> None:
        self.shared = "PROMETHEUS_MULTIPROC_DIR" in os.environ
        self._gauges: list[tuple[Gauge, Callable[[], float]]] = []
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "generator_requests",
            "Requests that were answered",
            ["method", "route", "status"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "generator_request_seconds",
            "From a request to the end of its response",
            ["route"],
            registry=self._registry,
            buckets=_SECONDS,
        )
        self._bytes = Counter(
            "generator_response_bytes",
            "Bytes of the bodies of responses",
            ["route"],
            registry=self._registry,
        )
        self._rows = Counter("generator_rows", "Rows that were sent", registry=self._registry)
        if not self.shared:
            ProcessCollector(registry=self._registry)

    def gauge(self, name: str, help_: str, value: Callable[[], float]) -> None:
        """Add a gauge that asks for its value whenever the metrics are read.

        If several processes share them, it has the values of the last `refresh` of each.
        """
        gauge = Gauge(name, help_, registry=self._registry, multiprocess_mode="livesum")
        if self.shared:
            self._gauges.append((gauge, value))
        else:
            gauge.set_function(value)

    def refresh(self) -> None:
        """Let the other processes see the gauges of this one."""
        for gauge, value in self._gauges:
            gauge.set(value())

    def count_rows(self, rows: int) -> None:
        """Count rows that are sent."""
        self._rows.inc(rows)

    def count_request(
        self, method: str, route: str, status: int, *, seconds: float, body_bytes: int
    ) -> None:
        """Count a request whose response has ended."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)
        self._bytes.labels(route).inc(body_bytes)

    def render(self, accept: str) -> tuple[bytes, str]:
        """Return the metrics and their media type, in the format that an Accept header prefers."""
        # Without parameters: the encoder fails on versions that it does not know.
        kinds = ",".join(kind.partition(";")[0] for kind in accept.split(","))
        encode, media_type = choose_encoder(kinds)
        registry = self._registry
        if self.shared:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)
        return encode(registry), media_type
