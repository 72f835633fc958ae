"""What Prometheus sees of calls, whatever they ask. Times are fine enough for calls well below a millisecond."""

from __future__ import annotations

from functools import partial

import grpc
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (
    *(50e-6, 100e-6, 200e-6, 300e-6, 500e-6, 700e-6),
    *(1e-3, 1.5e-3, 2e-3, 3e-3, 5e-3, 7e-3, 10e-3, 15e-3, 20e-3, 30e-3, 50e-3, 70e-3),
    *(0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0),
)
"""Upper bounds of the time buckets, from 50 microseconds to 10 seconds."""


class CallMetrics:
    """Metrics of calls, by method."""

    def __init__(self, registry: CollectorRegistry) -> None:
        counter = partial(Counter, registry=registry)
        self.arrived = counter(
            "consort_arrived_calls_total",
            "Calls that came in, streams among them.",
            ("method",),
        )
        self.in_flight = Gauge(
            "consort_in_flight_calls", "Unary calls in progress.", ("method",), registry=registry
        )
        self.seconds = Histogram(
            "consort_call_seconds",
            "Time from a unary call's arrival to its answer, by method and gRPC status code; 0 of calls without a "
            "place.",
            ("method", "code"),
            buckets=SECONDS,
            registry=registry,
        )
        self.refused = counter(
            "consort_refused_calls_total", "Calls that were refused, by method and reason.", ("method", "reason")
        )
        self._gone = counter(
            "consort_gone_calls_total",
            "Calls whose caller cancelled or whose deadline expired before the answer; dropped before they ran, "
            "or run for nobody.",
            ("method", "reason", "outcome"),
        )

    def count_gone(self, method: str, code: grpc.StatusCode, *, ran: bool) -> None:
        """Count a call that nobody waits for any more, by the status that says why."""
        reason = "expired" if code is grpc.StatusCode.DEADLINE_EXCEEDED else "cancelled"
        self._gone.labels(method, reason, "ran" if ran else "dropped").inc()
