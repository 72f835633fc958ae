"""Calls as our own code takes them in, or ends them before anything else is done for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from structlog.testing import capture_logs

from benchmarks.fuzzing.peers import Peer
from serving.call_server import CALLS_AT_ONCE, CallServer
from serving.context import Context, Handler
from serving.statuses import Status
from tests.coroutines import run

METHOD = "/test.Service/Ask"
FULL = Status(grpc.StatusCode.RESOURCE_EXHAUSTED, "there is no place", (("more", "later"),))


@asynccontextmanager
async def serving(refusal: Status | None) -> AsyncIterator[tuple[CallServer, str, list[Context]]]:
    """A server of one method, where it is, and the calls that it answers; all are refused, or none."""
    answered: list[Context] = []

    async def answer(_messages: Any, context: Context) -> bytes:
        answered.append(context)
        return b"answer"

    handler: Handler = grpc.stream_unary_rpc_method_handler(answer)
    server = CallServer({METHOD: handler}, lambda _method, _context: refusal, (), ())
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield server, f"127.0.0.1:{port}", answered
    finally:
        await asyncio.wait_for(server.stop(10), 10)


async def ask(target: str, message: bytes = b"") -> bytes:
    async with grpc.aio.insecure_channel(target) as channel:
        call: Any = channel.unary_unary(METHOD)
        return bytes(await call(message, timeout=10))


def test_what_is_not_refused_is_answered() -> None:
    async def serve() -> tuple[bytes, int]:
        async with serving(None) as (_, target, answered):
            return await ask(target), len(answered)

    assert run(serve()) == (b"answer", 1)


def test_what_is_refused_ends_with_the_status_and_is_not_answered() -> None:
    """Also where its message is larger than what the server lets come while it does not read."""

    async def serve() -> grpc.aio.AioRpcError:
        async with serving(FULL) as (_, target, answered):
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await ask(target, bytes(2**21))
            assert answered == []
            return error.value

    error: Any = run(serve())
    assert (error.code(), error.details()) == (FULL.code, FULL.message)
    assert tuple(error.trailing_metadata()) == FULL.trailing_metadata


@pytest.mark.parametrize("leaves", ["stream", "connection"])
def test_of_those_who_leave_while_they_are_refused_nothing_is_left(leaves: str) -> None:
    """Nor does any of it fail, or hold up the server's end."""

    async def serve() -> int:
        async with serving(FULL) as (server, target, _):
            for _ in range(20):
                await asyncio.to_thread(leave, target, leaves)
            while len(server._server._tasks) > 2 * CALLS_AT_ONCE:  # what takes in the method, and any other path
                await asyncio.sleep(0.01)
            return len(server._server._tasks)

    with capture_logs() as logged:
        assert run(serve()) == 2 * CALLS_AT_ONCE
    assert logged == []


def leave(target: str, leaves: str) -> None:
    """Begin many calls and go, before or after they have been refused."""
    with Peer(target) as peer:
        last = peer.begin(METHOD, many=100)
        if leaves == "stream":
            for stream in range(1, last + 1, 2):
                peer.http.reset_stream(stream)
            peer.flush()
