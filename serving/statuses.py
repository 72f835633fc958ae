"""What a call that fails ends with: the one table from errors to gRPC statuses, and how a call is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

import grpc

from serving.context import Context
from serving.errors import (
    CallerGone,
    ControlOff,
    Forbidden,
    InvalidRequest,
    LoadRefused,
    MessageLate,
    Overloaded,
    RequestError,
    ShuttingDown,
    Unauthenticated,
    UnknownModel,
    UnknownService,
)

STATUS_CODES: dict[type[RequestError], grpc.StatusCode] = {
    Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    Forbidden: grpc.StatusCode.PERMISSION_DENIED,
    InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    MessageLate: grpc.StatusCode.DEADLINE_EXCEEDED,
    UnknownModel: grpc.StatusCode.NOT_FOUND,
    UnknownService: grpc.StatusCode.NOT_FOUND,
    ControlOff: grpc.StatusCode.PERMISSION_DENIED,
    LoadRefused: grpc.StatusCode.FAILED_PRECONDITION,
    Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ShuttingDown: grpc.StatusCode.UNAVAILABLE,
    CallerGone: grpc.StatusCode.CANCELLED,
}
"""Subclasses take their nearest parent's status."""
MAX_MESSAGE_CHARACTERS = 500
"""Longest message to a caller."""


@dataclass(frozen=True)
class Status:
    """What a call ends with."""

    code: grpc.StatusCode
    message: str
    trailing_metadata: tuple[tuple[str, str], ...] = ()


INTERNAL = Status(grpc.StatusCode.INTERNAL, "the server failed to answer this call; its log has the details")


def status_code(error: type[RequestError]) -> grpc.StatusCode:
    """The gRPC status of a request error: its own, or its nearest parent's."""
    return next(STATUS_CODES[kind] for kind in error.__mro__ if kind in STATUS_CODES)


def status_of(error: RequestError) -> Status:
    """What a request error becomes; what is too much tells a client's retry policy when to ask again (gRFC A6)."""
    code, message = status_code(type(error)), str(error)
    if not isinstance(error, Overloaded):
        return Status(code, message)
    pushback_ms = str(round(error.retry_after_seconds * 1e3))
    return Status(code, message, (("grpc-retry-pushback-ms", pushback_ms),))


def trailing_metadata(context: Context, status: Status) -> tuple[tuple[str, str], ...]:
    """What a call has of it already, and what its status adds."""
    return (*(context.trailing_metadata() or ()), *status.trailing_metadata)


def code_of_the_gone(context: Context) -> grpc.StatusCode:
    """Why nobody waits for the call any more."""
    remaining_seconds = context.time_remaining()
    late = remaining_seconds is not None and remaining_seconds <= 0
    return grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED


async def abort(context: Context, status: Status) -> NoReturn:
    """End the call. Not to be called where an error is handled, which gRPC would keep, with all that it refers to.

    What came is part of many messages, and gRPC drops a status whose message is too long.
    """
    is_long = len(status.message) > MAX_MESSAGE_CHARACTERS
    message = status.message[:MAX_MESSAGE_CHARACTERS] + "..." * is_long
    await context.abort(status.code, message, trailing_metadata(context, status))
    raise AssertionError("abort always raises")
