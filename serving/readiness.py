"""grpc.health.v1 for two questions: does the process answer (`liveness`), and should calls be sent (all else)?

A server that drains is alive and not ready: whoever restarts what is not alive must leave it alone, and whoever
balances load must send it nothing more.

Whoever watches is told by threads that do nothing else, and no lock of the server is held meanwhile: a watcher
that leaves at the wrong moment, or takes no message, holds up neither the server nor, for long, the others
(decision 21).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeAlias

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from serving.at_end import at_end
from serving.errors import UnknownService

LIVENESS = "liveness"
"""The service that is SERVING for as long as the process answers; the empty name is the server's readiness."""

Status: TypeAlias = int
"""One of `HealthCheckResponse.ServingStatus`."""
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN

TELLERS = 8
"""Threads that tell those who watch."""
TELL_SECONDS = 0.5
"""How long a watcher may take to accept a message, before its stream is ended: one that reads takes no time."""


class Health(health_pb2_grpc.HealthServicer):
    """What the server says of itself; not ready until told."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # never held while something is sent: gRPC's own thread waits for it
        self._statuses: dict[str, Status] = {"": NOT_SERVING, LIVENESS: SERVING}
        self._leaving = False
        self._watchers: set[_Watcher] = set()
        self._tellers = ThreadPoolExecutor(TELLERS, thread_name_prefix="health")

    def Check(self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext) -> Any:
        """Answer with a service's status.

        Raises:
            UnknownService: There is none of that name.
        """
        status = self._status_of(request.service)
        if status == SERVICE_UNKNOWN:
            raise UnknownService(f"no service {request.service!r} has a health here")
        return health_pb2.HealthCheckResponse(status=status)

    def Watch(  # type: ignore[override]  # the stubs do not know of streams that hold no thread
        self,
        request: health_pb2.HealthCheckRequest,
        context: grpc.ServicerContext,
        send: Callable[[health_pb2.HealthCheckResponse], Any],
    ) -> None:
        """Tell a service's status now and whenever it changes, until the caller leaves; it may come later."""
        watcher = _Watcher(request.service, context, send)
        with self._lock:
            self._watchers.add(watcher)
        at_end(context, partial(self._forget, watcher))
        self._tellers.submit(watcher.tell, self._status_of)

    Watch.experimental_non_blocking = True  # type: ignore[attr-defined]  # where gRPC looks for it: no thread is held

    def set(self, service: str, status: Status) -> None:
        """Set one service's status; once the server is leaving, nothing changes any more."""
        with self._lock:
            if not self._leaving:
                self._change({service: status})

    def report_serving(self, service: str) -> None:
        """Say that calls to a service should be sent."""
        self.set(service, SERVING)

    def enter_graceful_shutdown(self) -> None:
        """Say NOT_SERVING for good, to those who watch as well; of the liveness SERVING still."""
        with self._lock:
            self._leaving = True
            self._change(dict.fromkeys(self._statuses.keys() - {LIVENESS}, NOT_SERVING))

    def is_ready(self) -> bool:
        """Whether calls should be sent to the server."""
        return not self._leaving

    def close(self) -> None:
        """Release the threads, once nobody watches any more."""
        self._tellers.shutdown()

    def _change(self, statuses: dict[str, Status]) -> None:
        self._statuses |= statuses
        for watcher in self._watchers:
            if watcher.service in statuses:
                self._tellers.submit(watcher.tell, self._status_of)

    def _status_of(self, service: str) -> Status:
        with self._lock:
            return self._statuses.get(service, SERVICE_UNKNOWN)

    def _forget(self, watcher: _Watcher) -> None:
        with self._lock:
            self._watchers.discard(watcher)


class _Watcher:
    """One stream that a service's status is told to."""

    def __init__(
        self,
        service: str,
        context: grpc.ServicerContext,
        send: Callable[[health_pb2.HealthCheckResponse], Any],
    ) -> None:
        self.service = service
        self._context = context
        self._send = send
        self._telling = threading.Lock()
        self._told: Status | None = None

    def tell(self, status_of: Callable[[str], Status]) -> None:
        """Send the status as it is now, unless that is what was sent last; one message at a time, so in order."""
        with self._telling:
            status = status_of(self.service)
            if status != self._told:
                self._told = status
                patience = threading.Timer(TELL_SECONDS, self._context.cancel)
                patience.start()
                self._send(health_pb2.HealthCheckResponse(status=status))
                patience.cancel()
