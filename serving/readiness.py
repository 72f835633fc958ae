"""grpc.health.v1 for two questions: does the process answer (`liveness`), and should calls be sent (all else)?

A server that drains is alive and not ready: whoever restarts what is not alive must leave it alone, and whoever
balances load must send it nothing more.
"""

from __future__ import annotations

import threading
from typing import Any

from grpc_health.v1 import health, health_pb2

LIVENESS = "liveness"
"""The service that is SERVING for as long as the process answers; the empty name is the server's readiness."""

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Health(health.HealthServicer):
    """What the server says of itself; not ready until told."""

    def __init__(self) -> None:
        super().__init__()
        self._changing = threading.Lock()
        self._leaving = False
        self._services = {""}
        super().set("", NOT_SERVING)
        super().set(LIVENESS, SERVING)

    def set(self, service: str, status: Any) -> None:
        """Set one service's status; once the server is leaving, nothing changes any more."""
        with self._changing:
            if not self._leaving:
                self._services.add(service)
                super().set(service, status)

    def report_serving(self, service: str) -> None:
        """Say that calls to a service should be sent."""
        self.set(service, SERVING)

    def enter_graceful_shutdown(self) -> None:
        """Say NOT_SERVING for good, to those who watch as well; of the liveness SERVING still."""
        with self._changing:
            self._leaving = True
            for service in self._services:
                super().set(service, NOT_SERVING)

    def is_ready(self) -> bool:
        """Whether calls should be sent to the server."""
        return not self._leaving
