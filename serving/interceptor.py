"""What happens around every call: unary calls are counted and timed, and their errors become gRPC statuses."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, TypeAlias, cast

import grpc
import structlog
from google.protobuf.message import DecodeError

from serving.admission import LIMITED_METHODS, Admission
from serving.at_end import at_end
from serving.errors import (
    CallerGone,
    ControlOff,
    Forbidden,
    InvalidRequest,
    LoadRefused,
    Overloaded,
    RequestError,
    ShuttingDown,
    Unauthenticated,
    UnknownModel,
    UnknownService,
)
from serving.metrics.calls import CallMetrics
from serving.observation import CallWatch, CallWatcher
from serving.same_thread import SameThread

STATUS_CODES: dict[type[RequestError], grpc.StatusCode] = {
    Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    Forbidden: grpc.StatusCode.PERMISSION_DENIED,
    InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    UnknownModel: grpc.StatusCode.NOT_FOUND,
    UnknownService: grpc.StatusCode.NOT_FOUND,
    ControlOff: grpc.StatusCode.PERMISSION_DENIED,
    LoadRefused: grpc.StatusCode.FAILED_PRECONDITION,
    Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ShuttingDown: grpc.StatusCode.UNAVAILABLE,
    CallerGone: grpc.StatusCode.CANCELLED,
}
"""Subclasses take their nearest parent's status."""
MAX_MESSAGE = 500
"""Longest message to a caller, in characters."""
NO_METHOD = "(none)"
"""Counts calls of methods that there are not, whatever their names."""
MAX_BLOCKING_STREAMS = 4
"""Streams that hold a thread each, such as reflection's; fewer than the server's spare threads."""
INTERNAL_MESSAGE = "the server failed to answer this call; its log has the details"

AT_ONCE = SameThread()
"""Refusals wait for no thread and take none, however many there are."""

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # a generic in the type stubs alone
Behavior = Callable[[Any, grpc.ServicerContext], Any]
Parse = Callable[[bytes], Any] | None

log = structlog.get_logger()


class CallInterceptor(grpc.ServerInterceptor):
    """Wraps the calls of every service on the server."""

    def __init__(self, metrics: CallMetrics, admission: Admission, watchers: Sequence[CallWatcher] = ()) -> None:
        self._metrics = metrics
        self._admission = admission
        self._watch = CallWatch(watchers)
        self._streams: set[grpc.ServicerContext] = set()
        self._free_streams = threading.Semaphore(MAX_BLOCKING_STREAMS)

    def cancel_streams(self) -> None:
        """End all streams: those that watch the health, for one, never end by themselves."""
        for context in list(self._streams):
            context.cancel()

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Handler | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Wrap the handler that was found for a call."""
        handler = continuation(handler_call_details)
        method = handler_call_details.method.rpartition("/")[2] if handler is not None else NO_METHOD
        self._metrics.arrived.labels(method).inc()
        if handler is None:
            return None
        parse, serialize = handler.request_deserializer, handler.response_serializer
        if handler.unary_unary:
            full_method = handler_call_details.method
            answer = self._observe(full_method, _parse_first(parse, handler.unary_unary))
            if full_method in LIMITED_METHODS:
                # As a stream of one message: whoever is refused is not waited for.
                limited = self._limit(full_method, answer)
                return grpc.stream_unary_rpc_method_handler(limited, response_serializer=serialize)
            return grpc.unary_unary_rpc_method_handler(answer, response_serializer=serialize)
        if handler.unary_stream:
            stream = self._hold(_parse_in_stream(parse, handler.unary_stream))
            return grpc.unary_stream_rpc_method_handler(stream, response_serializer=serialize)
        stream = self._hold(_parse_in_stream(parse, cast(Behavior, handler.stream_stream)))
        return grpc.stream_stream_rpc_method_handler(stream, response_serializer=serialize)

    def _limit(self, full_method: str, behavior: Behavior) -> Behavior:
        """`behavior`, if there is a place for the call; if not, a refusal on the thread that calls arrive on."""
        if not self._admission.take_place():
            refusal = self._observe(full_method, lambda *_: self._admission.refuse())
            refusal.experimental_thread_pool = AT_ONCE  # type: ignore[attr-defined]  # where gRPC looks for it
            return refusal

        def answer(messages: Iterator[bytes], context: grpc.ServicerContext) -> Any:
            """Wait for the message, and answer; a call that ends without one counts as one with an empty one."""
            try:
                return behavior(next(messages, b""), context)
            finally:
                self._admission.give_place_back()

        return answer

    def _observe(self, full_method: str, behavior: Behavior) -> Behavior:
        method = full_method.rpartition("/")[2]

        def answer(request: Any, context: grpc.ServicerContext) -> Any:
            """`behavior`, counted and timed, with its errors as statuses."""
            started = time.perf_counter()
            code, reason = grpc.StatusCode.INTERNAL, None
            record = self._watch.begin(full_method, context)
            try:
                with self._metrics.in_flight.labels(method).track_inprogress():
                    response = behavior(request, context)
                code = grpc.StatusCode.OK if context.is_active() else _code_of_the_gone(context)
                if code is not grpc.StatusCode.OK:
                    self._metrics.count_gone(method, code, ran=True)
                return response
            except CallerGone as error:
                code, reason = _code_of_the_gone(context), type(error).__name__
                self._metrics.count_gone(method, code, ran=False)
                _abort(context, code, str(error))
            except RequestError as error:
                code, reason = status_code(type(error)), type(error).__name__
                self._metrics.refused.labels(method, reason).inc()
                if isinstance(error, Overloaded):
                    # What a client's retry policy waits for instead of its own back-off (gRFC A6).
                    pushback_ms = str(round(error.retry_after_seconds * 1e3))
                    more = context.trailing_metadata() or ()
                    context.set_trailing_metadata((*more, ("grpc-retry-pushback-ms", pushback_ms)))
                _abort(context, code, str(error))
            except Exception as error:
                reason = type(error).__name__
                log.exception("call failed", method=method)
                _abort(context, code, INTERNAL_MESSAGE)
            finally:
                seconds = time.perf_counter() - started
                self._metrics.seconds.labels(method, code.name).observe(seconds)
                if record is not None:
                    self._watch.end(record, code, reason)

        return answer

    def _hold(self, behavior: Behavior) -> Behavior:
        """Remember a stream while it is open; refuse it where too many of its kind hold a thread each."""
        holds_a_thread = not getattr(behavior, "experimental_non_blocking", False)

        @functools.wraps(behavior)
        def answer(request: Any, context: grpc.ServicerContext, *more: Any) -> Any:
            """`behavior`, if a thread is left for it, remembered while it is open."""
            if holds_a_thread:
                if not self._free_streams.acquire(blocking=False):
                    _abort(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "too many streams are open")
                at_end(context, self._free_streams.release)
            self._streams.add(context)
            at_end(context, functools.partial(self._streams.discard, context))
            return behavior(request, context, *more)

        return answer


def _parse_first(parse: Parse, behavior: Behavior) -> Behavior:
    """`behavior`, with its request parsed here: bytes that are no message would be INTERNAL to gRPC itself."""

    def answer(message: bytes, context: grpc.ServicerContext) -> Any:
        """Parse, then answer."""
        return behavior(_message(parse, message), context)

    return answer


def _parse_in_stream(parse: Parse, behavior: Behavior) -> Behavior:
    """As above, for a request or a stream of them, where nobody turns errors into statuses."""

    @functools.wraps(behavior)
    def answer(came: bytes | Iterator[bytes], context: grpc.ServicerContext, *more: Any) -> Any:
        """Parse what came, or what comes, and answer."""

        def read(message: bytes) -> Any:
            """One message; ends the stream if it is none."""
            try:
                return _message(parse, message)
            except InvalidRequest as error:
                _abort(context, status_code(InvalidRequest), str(error))

        return behavior(read(came) if isinstance(came, bytes) else map(read, came), context, *more)

    return answer


def _message(parse: Parse, message: bytes) -> Any:
    assert parse is not None  # noqa: S101  every method here takes messages
    try:
        return parse(message)
    except DecodeError as error:
        raise InvalidRequest(f"the request is {len(message)} bytes that are no message of this method") from error


def status_code(error: type[RequestError]) -> grpc.StatusCode:
    """The gRPC status of a request error: its own, or its nearest parent's."""
    return next(STATUS_CODES[kind] for kind in error.__mro__ if kind in STATUS_CODES)


def _code_of_the_gone(context: grpc.ServicerContext) -> grpc.StatusCode:
    remaining_seconds = context.time_remaining()
    late = remaining_seconds is not None and remaining_seconds <= 0
    return grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED


def _abort(context: grpc.ServicerContext, code: grpc.StatusCode, message: str) -> NoReturn:
    # What came is part of many messages; gRPC drops a status whose message is too long.
    context.abort(code, message if len(message) <= MAX_MESSAGE else message[:MAX_MESSAGE] + "...")
    raise AssertionError("abort always raises")
