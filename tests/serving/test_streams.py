"""Streams are remembered while they are open, to be ended with the server, and no longer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from structlog.testing import capture_logs

from serving.admission import Admission
from serving.errors import UnknownService
from serving.interceptor import CallInterceptor
from serving.metrics import Metrics
from serving.statuses import INTERNAL
from tests.coroutines import run

METHOD = "/grpc.health.v1.Health/Watch"


async def tell_once(_request: object, _context: object) -> AsyncGenerator[str, None]:
    yield "told"


async def tell_and_wait(_request: object, _context: object) -> AsyncGenerator[str, None]:
    yield "told"
    await asyncio.Event().wait()


def fail_with(error: Exception) -> Any:
    """A stream that ends with an error."""

    async def fail(_request: object, _context: object) -> AsyncGenerator[str, None]:
        yield "told"
        raise error

    return fail


class Stream:
    """A stream's context, and what came of it."""

    def __init__(self) -> None:
        self.told: list[object] = []
        self.code: grpc.StatusCode | None = None
        self.message = ""

    async def read(self) -> bytes:
        return b""

    async def write(self, reply: object) -> None:
        self.told.append(reply)

    def trailing_metadata(self) -> None:
        """Nothing yet."""

    async def abort(self, code: grpc.StatusCode, message: str, _: object) -> None:
        self.code, self.message = code, message
        raise grpc.aio.AbortError


async def answer(interceptor: CallInterceptor, behavior: Any, stream: Stream) -> None:
    """Have a stream answered in the task that asks, as gRPC does."""

    async def find(_details: object) -> Any:
        return grpc.unary_stream_rpc_method_handler(behavior, request_deserializer=bytes)

    details: Any = SimpleNamespace(method=METHOD, invocation_metadata=())
    wrapped: Any = await interceptor.intercept_service(find, details)
    await wrapped.stream_stream(None, stream)


def test_a_stream_that_has_ended_is_not_ended_again() -> None:
    async def outlive() -> Stream:
        interceptor, stream = CallInterceptor(Metrics().calls, Admission(1)), Stream()
        await answer(interceptor, tell_once, stream)
        interceptor.end_streams()
        await asyncio.sleep(0)  # where this task would be cancelled
        return stream

    stream = run(outlive())
    assert (stream.told, stream.code) == (["told"], None)


def test_a_stream_that_is_open_is_ended_with_a_status() -> None:
    async def end() -> Stream:
        interceptor, stream = CallInterceptor(Metrics().calls, Admission(1)), Stream()
        task = asyncio.create_task(answer(interceptor, tell_and_wait, stream))
        while not stream.told:
            await asyncio.sleep(0)
        interceptor.end_streams()
        with pytest.raises(grpc.aio.AbortError):
            await task
        return stream

    assert run(end()).code is grpc.StatusCode.CANCELLED


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (
            UnknownService("no service 'x' has a health here"),
            grpc.StatusCode.NOT_FOUND,
            "no service 'x' has a health here",
        ),
        (RuntimeError("a secret of the inside"), INTERNAL.code, INTERNAL.message),
    ],
)
def test_a_stream_that_fails_ends_as_a_call_does(error: Exception, code: grpc.StatusCode, message: str) -> None:
    async def fail() -> Stream:
        interceptor, stream = CallInterceptor(Metrics().calls, Admission(1)), Stream()
        with pytest.raises(grpc.aio.AbortError), capture_logs():
            await answer(interceptor, fail_with(error), stream)
        return stream

    stream = run(fail())
    assert (stream.told, stream.code, stream.message) == (["told"], code, message)


def test_a_connection_that_breaks_under_a_stream_is_no_failure_of_ours() -> None:
    async def lose() -> Stream:
        interceptor, stream = CallInterceptor(Metrics().calls, Admission(1)), Stream()
        with pytest.raises(grpc.aio.InternalError), capture_logs() as logged:
            await answer(interceptor, fail_with(grpc.aio.InternalError()), stream)
        assert logged == []
        return stream

    assert run(lose()).code is None
