"""Streams are remembered while they are open, to be ended with the server, and no longer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from serving.admission import Admission
from serving.interceptor import CallInterceptor
from serving.metrics import Metrics
from tests.coroutines import run

METHOD = "/grpc.health.v1.Health/Watch"


async def tell_once(_request: object, _context: object) -> AsyncGenerator[str, None]:
    yield "told"


async def tell_and_wait(_request: object, _context: object) -> AsyncGenerator[str, None]:
    yield "told"
    await asyncio.Event().wait()


class Stream:
    """A stream's context, and what came of it."""

    def __init__(self) -> None:
        self.told: list[object] = []
        self.code: grpc.StatusCode | None = None

    async def read(self) -> bytes:
        return b""

    async def write(self, reply: object) -> None:
        self.told.append(reply)

    async def abort(self, code: grpc.StatusCode, _message: str) -> None:
        self.code = code
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
