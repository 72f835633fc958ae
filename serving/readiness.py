"""grpc.health.v1 for two questions: does the process answer (`liveness`), and should calls be sent (all else)?

A server that drains is alive and not ready: whoever restarts what is not alive must leave it alone, and whoever
balances load must send it nothing more.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from typing import TypeAlias

from grpc_health.v1 import health_pb2, health_pb2_grpc

from serving.context import Context
from serving.errors import UnknownService

LIVENESS = "liveness"
"""The service that is SERVING for as long as the process answers; the empty name is the server's readiness."""

Status: TypeAlias = int
"""One of `HealthCheckResponse.ServingStatus`."""
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Health(health_pb2_grpc.HealthServicer):
    """What the server says of itself; not ready until told, by any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Tell those who watch by the loop that their calls are answered in."""
        self._loop = loop
        self._lock = threading.Lock()
        self._statuses: dict[str, Status] = {"": NOT_SERVING, LIVENESS: SERVING}
        self._leaving = False
        self._watchers: set[asyncio.Event] = set()

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> health_pb2.HealthCheckResponse:
        """Answer with a service's status.

        Raises:
            UnknownService: There is none of that name.
        """
        status = self._status_of(request.service)
        if status == SERVICE_UNKNOWN:
            raise UnknownService(f"no service {request.service!r} has a health here")
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> AsyncGenerator[health_pb2.HealthCheckResponse, None]:
        """Tell a service's status now and whenever it changes, until the caller leaves; it may come later."""
        changed, told = asyncio.Event(), None
        self._watchers.add(changed)
        try:
            while True:
                changed.clear()
                status = self._status_of(request.service)
                if status != told:
                    yield health_pb2.HealthCheckResponse(status=status)
                    told = status
                await changed.wait()
        finally:
            self._watchers.discard(changed)

    def set(self, service: str, status: Status) -> None:
        """Set one service's status; once the server is leaving, nothing changes any more."""
        with self._lock:
            if not self._leaving:
                self._change({service: status})

    def enter_graceful_shutdown(self) -> None:
        """Say NOT_SERVING for good, to those who watch as well; of the liveness SERVING still."""
        with self._lock:
            self._leaving = True
            self._change(dict.fromkeys(self._statuses.keys() - {LIVENESS}, NOT_SERVING))

    def is_ready(self) -> bool:
        """Whether calls should be sent to the server."""
        return self._statuses[""] == SERVING

    def _change(self, statuses: dict[str, Status]) -> None:
        self._statuses |= statuses
        self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        for changed in self._watchers:
            changed.set()

    def _status_of(self, service: str) -> Status:
        return self._statuses.get(service, SERVICE_UNKNOWN)
