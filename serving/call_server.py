"""gRPC's asyncio server, except that calls are taken in by code of ours (decision 29).

gRPC's own code ends for good at the first call whose path is not UTF-8, which anybody may send, and takes in one
call at a time. What stands in for it needs parts of gRPC that are not public.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import grpc
from grpc._cython import cygrpc
from grpc.aio._server import Server

from serving.context import Handler

AT_ONCE = 32
"""Calls of one method that gRPC may hand over before the loop has looked at the first of them."""
UNKNOWN_METHOD = "/(none)/(none)"
"""What all methods are called that there are not: their own paths may be anything."""


class Services:
    """Takes servicers in place of a server, as gRPC's generated code adds them, and keeps their methods."""

    def __init__(self) -> None:
        self.methods: dict[str, Handler] = {}

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Keep nothing: the same methods come once more."""

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Handler]) -> None:
        """Keep a service's methods."""
        self.methods |= {f"/{service_name}/{method}": handler for method, handler in method_handlers.items()}


class CallServer(Server):
    """Serves the methods that are given to it, in the running event loop."""

    def __init__(
        self,
        methods: Mapping[str, Handler],
        interceptors: Sequence[grpc.aio.ServerInterceptor],
        options: Sequence[tuple[str, Any]],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._server = _Core(self._loop, methods, interceptors, options)


class _Core(cygrpc.AioServer):  # type: ignore[misc]  # it has no types
    """The core of a server."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        methods: Mapping[str, Handler],
        interceptors: Sequence[grpc.aio.ServerInterceptor],
        options: Sequence[tuple[str, Any]],
    ) -> None:
        super().__init__(loop, None, (), interceptors, options, None)
        self.add_registered_method_handlers(dict(methods))
        self._calls = loop
        self._around = tuple(interceptors)
        self._methods = cygrpc._MethodResolver([], dict(methods))
        self._tasks: set[asyncio.Task[None]] = set()
        self._end: asyncio.Future[Any] = loop.create_future()

    def _make_request_call_future(self, method: bytes | None) -> asyncio.Future[Any]:
        """Take in the calls of a method, or of those that there are not. gRPC asks for that once for each.

        Returns:
            What ends with an exception when the server does, one for all methods.
        """
        for _ in range(AT_ONCE):
            self._keep(self._take_in(method))
        return self._end

    async def _take_in(self, method: bytes | None) -> None:
        name = UNKNOWN_METHOD if method is None else method.decode()
        while not self._end.done():
            try:
                call = await (self._request_call() if method is None else self._request_registered_call(method))
                answer = cygrpc._handle_rpc(name, self._methods, self._around, call, self._calls, False)
                self._keep(cygrpc._schedule_rpc_coro(answer, call, self._calls, name))
            except Exception as error:  # noqa: BLE001  whatever it is, calls are taken in no more
                goes_on = isinstance(error, cygrpc._RequestCallError) and self.is_running()
                if not goes_on and not self._end.done():
                    self._end.set_exception(error)

    def _keep(self, coroutine: Any) -> asyncio.Task[None]:
        """Have it run to its end: the loop alone would forget it."""
        task = self._calls.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
