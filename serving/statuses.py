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
INTERNAL_MESSAGE = "the server failed to answer this call; its log has the details"


@dataclass(frozen=True)
class Status:
    """What a call ends with."""

    code: grpc.StatusCode
    message: str
    trailing_metadata: tuple[tuple[str, str], ...] = ()


def status_code(error: type[RequestError]) -> grpc.StatusCode:
    """The gRPC status of a request error: its own, or its nearest parent's."""
    return next(STATUS_CODES[kind] for kind in error.__mro__ if kind in STATUS_CODES)


def refusal_of(error: Overloaded) -> Status:
    """Of what is too much; a client's retry policy waits as long as it says (pushback, gRFC A6)."""
    pushback_ms = str(round(error.retry_after_seconds * 1e3))
    return Status(status_code(type(error)), str(error), (("grpc-retry-pushback-ms", pushback_ms),))


def add_trailing_metadata(context: Context, status: Status) -> None:
    """Have a call end with that of a status as well."""
    context.set_trailing_metadata((*(context.trailing_metadata() or ()), *status.trailing_metadata))


def code_of_the_gone(context: Context) -> grpc.StatusCode:
    """Why nobody waits for the call any more."""
    remaining_seconds = context.time_remaining()
    late = remaining_seconds is not None and remaining_seconds <= 0
    return grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED


async def abort(context: Context, code: grpc.StatusCode, message: str) -> NoReturn:
    """End the call. Not to be called where an error is handled, which gRPC would keep, with all that it refers to.

    What came is part of many messages, and gRPC drops a status whose message is too long.
    """
    await context.abort(code, message[:MAX_MESSAGE_CHARACTERS] + "..." * (len(message) > MAX_MESSAGE_CHARACTERS))
    raise AssertionError("abort always raises")
