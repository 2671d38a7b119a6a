"""Counts of the requests and answers of the service, in Prometheus' format."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import choose_encoder

if TYPE_CHECKING:
    from collections.abc import Callable

_SECONDS = (0.001, 0.01, 0.1, 0.5, 1, 5, 30, 120, 600)
NO_ROUTE = "none"
"""The route of requests that no route answers."""


class Metrics:
    """The metrics of one process; `render` gives them to whoever asks for /metrics."""

    def __init__(self) -> None:
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
        ProcessCollector(registry=self._registry)

    def gauge(self, name: str, help_: str, value: Callable[[], float]) -> None:
        """Add a gauge that asks for its value whenever the metrics are read."""
        Gauge(name, help_, registry=self._registry).set_function(value)

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
        return encode(self._registry), media_type
