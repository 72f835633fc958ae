"""gRPC's asyncio server, except that calls are taken in, and refused, by code of ours (decisions 29 and 30).

gRPC's own code ends for good at the first call whose path is not UTF-8, which anybody may send, and takes in one
call at a time. What stands in for it needs parts of gRPC that are not public.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import grpc
from grpc._cython import cygrpc
from grpc.aio._server import Server

from serving.context import Context, Handler
from serving.statuses import Status, trailing_metadata

CALLS_AT_ONCE = 32
"""Calls of one method that gRPC may hand over before the loop has looked at the first of them."""
NO_METHOD = "/(none)/(none)"
"""Stands for the path of every method that there is not: what came may be any bytes."""

FindRefusal = Callable[[str, Context], Status | None]
"""Asked of each call, by its path, before anything else is done for it: what ends it at once, if anything does.
Must not raise."""


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
        find_refusal: FindRefusal,
        interceptors: Sequence[grpc.aio.ServerInterceptor],
        options: Sequence[tuple[str, Any]],
    ) -> None:
        """Instead of gRPC's own, which would make a core of its own; it reads these two attributes."""
        self._loop = asyncio.get_running_loop()
        self._server = _Core(self._loop, methods, find_refusal, interceptors, options)


class _Core(cygrpc.AioServer):  # type: ignore[misc]  # it has no types
    """The core of a server."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        methods: Mapping[str, Handler],
        find_refusal: FindRefusal,
        interceptors: Sequence[grpc.aio.ServerInterceptor],
        options: Sequence[tuple[str, Any]],
    ) -> None:
        super().__init__(loop, None, (), interceptors, options, None)
        self.add_registered_method_handlers(dict(methods))
        self._loop = loop
        self._find_refusal = find_refusal
        self._interceptors = tuple(interceptors)
        self._methods = cygrpc._MethodResolver([], dict(methods))
        self._tasks: set[asyncio.Task[None]] = set()
        self._end: asyncio.Future[Any] = loop.create_future()

    def _make_request_call_future(self, method: bytes | None) -> asyncio.Future[Any]:
        """Take in the calls of a method, or of those that there are not. gRPC asks for that once for each.

        Returns:
            What ends with an exception when the server does, one for all methods.
        """
        for _ in range(CALLS_AT_ONCE):
            self._keep(self._take_in(method))
        return self._end

    async def _take_in(self, method: bytes | None) -> None:
        name = NO_METHOD if method is None else method.decode()
        while not self._end.done():
            try:
                # No variable holds the call: it would keep the last one of each method, with its message.
                self._begin(
                    name,
                    await (self._request_call() if method is None else self._request_registered_call(method)),
                )
            except Exception as error:  # noqa: BLE001  whatever it is, calls are taken in no more
                goes_on = isinstance(error, cygrpc._RequestCallError) and self.is_running()
                if not goes_on and not self._end.done():
                    self._end.set_exception(error)

    def _begin(self, name: str, call: Any) -> None:
        context = cygrpc._ServicerContext(call, None, None, self._loop)
        if (refusal := self._find_refusal(name, context)) is not None:
            self._keep(self._refuse(call, context, refusal))
            return
        answer = cygrpc._handle_rpc(name, self._methods, self._interceptors, call, self._loop, False)
        self._keep(cygrpc._schedule_rpc_coro(answer, call, self._loop, name))

    async def _refuse(self, call: Any, context: Context, status: Status) -> None:
        """End a call in one step, where gRPC's way takes some ten: most calls end here when there are too many."""
        more = trailing_metadata(context, status)
        end = (
            cygrpc.SendInitialMetadataOperation((), 0),
            cygrpc.SendStatusFromServerOperation(more, status.code.value[0], status.message, 0),
            cygrpc.ReceiveCloseOnServerOperation(0),  # without it, gRPC would cancel the call as well
        )
        await cygrpc.execute_batch(call, end, self._loop)  # does not fail where the caller has left

    async def _start_shutting_down(self) -> None:
        """As gRPC does, also where calls are taken in no more: it would wait for those in progress without end."""
        with suppress(Exception):
            await super()._start_shutting_down()

    def _keep(self, coroutine: Any) -> asyncio.Task[None]:
        """Have it run to its end: the loop alone would forget it."""
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
