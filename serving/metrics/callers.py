"""What Prometheus sees of who calls: refusals, and the credentials that decide them."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter


class CallerMetrics:
    """Metrics of both ports' credentials."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.refused = Counter(
            "consort_refused_callers",
            "Callers refused for what they showed or did not show, by port and reason.",
            ("port", "reason"),
            registry=registry,
        )
        self.credential_reloads = Counter(
            "consort_credential_reloads",
            "Times that the certificate or the tokens changed and were loaded, or refused.",
            ("kind", "outcome"),
            registry=registry,
        )
