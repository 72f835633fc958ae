"""The messages of a call, read and parsed before whatever answers them sees them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from serving.context import Context
from serving.errors import InvalidRequest

Messages = AsyncIterator[bytes]
Behavior = Callable[[Any, Context], Awaitable[Any]]
"""Answers a call with one message."""
StreamBehavior = Callable[[Any, Context], AsyncGenerator[Any, None]]
"""Answers a call with any number of them."""
Parse = Callable[[bytes], Any]


def with_message(parse: Parse, behavior: Behavior) -> Behavior:
    """`behavior`, given the message of a call."""

    async def answer(_: Messages, context: Context) -> Any:
        """Read, then answer."""
        return await behavior(_message(parse, await context.read()), context)

    return answer


def stream_with_message(parse: Parse, behavior: StreamBehavior) -> StreamBehavior:
    """As above, of an answer that is a stream."""

    async def answer(_: Messages, context: Context) -> AsyncGenerator[Any, None]:
        """Read, then answer."""
        async with aclosing(behavior(_message(parse, await context.read()), context)) as replies:
            async for reply in replies:
                yield reply

    return answer


def stream_with_messages(parse: Parse, behavior: StreamBehavior) -> StreamBehavior:
    """`behavior`, given the messages of a call as they come."""

    def answer(messages: Messages, context: Context) -> AsyncGenerator[Any, None]:
        """Answer what comes."""
        return behavior((_message(parse, message) async for message in messages), context)

    return answer


def _message(parse: Parse, came: Any) -> Any:
    """Parse bytes here: those that are no message would be INTERNAL to gRPC itself."""
    if came is grpc.aio.EOF:
        raise InvalidRequest("the call ended without a message")
    try:
        return parse(came)
    except DecodeError as error:
        raise InvalidRequest(f"the request is {len(came)} bytes that are no message of this method") from error
