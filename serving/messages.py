"""The messages of a call, read and parsed before whatever answers them sees them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from serving.context import Context
from serving.errors import InvalidRequest, MessageLate

Messages = AsyncIterator[bytes]
Behavior = Callable[[Any, Context], Awaitable[Any]]
"""Answers a call with one message."""
StreamBehavior = Callable[[Any, Context], AsyncGenerator[Any, None]]
"""Answers a call with any number of them."""
Parse = Callable[[bytes], Any]


def with_message(parse: Parse, seconds: float, behavior: Behavior) -> Behavior:
    """`behavior`, given the message of a call, which must come within so many seconds."""

    async def answer(_: Messages, context: Context) -> Any:
        """Read, then answer."""
        return await behavior(await _read(parse, seconds, context), context)

    return answer


def stream_with_message(parse: Parse, seconds: float, behavior: StreamBehavior) -> StreamBehavior:
    """As above, of an answer that is a stream."""

    async def answer(_: Messages, context: Context) -> AsyncGenerator[Any, None]:
        """Read, then answer."""
        async with aclosing(behavior(await _read(parse, seconds, context), context)) as replies:
            async for reply in replies:
                yield reply

    return answer


def stream_with_messages(parse: Parse, behavior: StreamBehavior) -> StreamBehavior:
    """`behavior`, given the messages of a call as they come."""

    def answer(_: Messages, context: Context) -> AsyncGenerator[Any, None]:
        """Answer what comes."""
        return behavior(_read_all(parse, context), context)

    return answer


async def _read_all(parse: Parse, context: Context) -> AsyncGenerator[Any, None]:
    """The messages of a call. gRPC's own iterator would keep the last one for as long as the call is open."""
    while (came := await context.read()) is not grpc.aio.EOF:
        yield _message(parse, came)


def bounded(parse: Parse, most_bytes: int) -> Parse:
    """`parse`, of so many bytes at most."""

    def parse_if_short(came: bytes) -> Any:
        """Refuse, or parse."""
        if len(came) > most_bytes:
            raise InvalidRequest(f"the request is {len(came)} bytes; this method takes {most_bytes} at most")
        return parse(came)

    return parse_if_short


async def _read(parse: Parse, seconds: float, context: Context) -> Any:
    """The message of a call, which may not keep the server waiting for ever."""
    try:
        async with asyncio.timeout(seconds):
            came = await context.read()
    except TimeoutError as error:
        raise MessageLate(f"the message has not come whole within {seconds:g} seconds") from error
    return _message(parse, came)


def _message(parse: Parse, came: Any) -> Any:
    """Parse bytes here: those that are no message would be INTERNAL to gRPC itself."""
    if came is grpc.aio.EOF:
        raise InvalidRequest("the call ended without a message")
    try:
        return parse(came)
    except DecodeError as error:
        raise InvalidRequest(f"the request is {len(came)} bytes that are no message of this method") from error
