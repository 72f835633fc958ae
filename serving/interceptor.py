"""What happens around every call: errors become gRPC statuses, and unary calls are counted and timed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any

import grpc
import structlog

from serving.admission import LIMITED_METHODS, Admission
from serving.context import Context, Handler
from serving.errors import CallerGone, Overloaded, RequestError
from serving.messages import (
    Behavior,
    Messages,
    StreamBehavior,
    bounded,
    stream_with_message,
    stream_with_messages,
    with_message,
)
from serving.metrics.calls import CallMetrics
from serving.observation import CallWatch, CallWatcher
from serving.statuses import INTERNAL_MESSAGE, abort, ask_to_wait, code_of_the_gone, status_code

MAX_STREAMS = 8192
"""Streams that may be open, such as those of clients who watch the health; each takes 20 KB."""
MAX_OTHER_CALLS = 4096
"""Unary calls in progress that ask no model; apart from streams, so that these shut no probe out."""
MAX_OTHER_BYTES = 2**16
"""Largest message of a method that asks no model: none needs much, and some may be called by anybody."""
NO_METHOD = "(none)"
"""Counts calls of methods that there are not, whatever their names."""

log = structlog.get_logger()


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps the methods of every service on the server."""

    def __init__(
        self,
        metrics: CallMetrics,
        admission: Admission,
        watchers: Sequence[CallWatcher] = (),
        message_seconds: float = 60.0,
    ) -> None:
        """Wrap all methods.

        Args:
            metrics: Where calls are counted.
            admission: Of the methods that ask a model.
            watchers: Are told of every call that has ended.
            message_seconds: How long a call's message may take to come.
        """
        self._metrics = metrics
        self._admission = admission
        self._other_calls = Admission(MAX_OTHER_CALLS)
        self._open_streams = Admission(MAX_STREAMS)
        self._message_seconds = message_seconds
        self._admissions: dict[str, Admission] = {}
        self._watch = CallWatch(watchers)
        self._wrapped: dict[str, Handler] = {}
        self._refusals: dict[str, Handler] = {}
        self._answering = 0
        self._streams: set[asyncio.Task[None]] = set()

    def is_answering(self) -> bool:
        """Whether a call is in progress that is no stream."""
        return self._answering > 0

    def end_streams(self) -> None:
        """End all streams: those that watch the health, for one, never end by themselves."""
        for stream in self._streams:
            stream.cancel()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Give the wrapped handler of a call's method; None if there is no such method."""
        full_method = handler_call_details.method
        if full_method not in self._wrapped:
            handler = await continuation(handler_call_details)
            if handler is None:
                self._metrics.arrived.labels(NO_METHOD).inc()
                return None
            admission = self._admissions[full_method] = self._admission_of(full_method, handler)
            self._wrapped[full_method] = self._wrap(full_method, handler)
            self._refusals[full_method] = self._refuse(full_method, admission.refusal())
        self._metrics.arrived.labels(_short(full_method)).inc()
        if self._admissions[full_method].is_full():
            return self._refusals[full_method]
        return self._wrapped[full_method]

    def _admission_of(self, full_method: str, handler: Any) -> Admission:
        if full_method in LIMITED_METHODS:
            return self._admission
        return self._other_calls if handler.unary_unary else self._open_streams

    def _wrap(self, full_method: str, handler: Any) -> Handler:  # whose type stubs know of threads alone
        """The same method, as one that takes a stream of messages.

        So a call begins before its message is there: whoever is refused is not waited for. And where gRPC itself
        waits for one message, on asyncio, it never answers a call that ends without.
        """
        parse, serialize = handler.request_deserializer, handler.response_serializer
        if full_method not in LIMITED_METHODS:
            parse = bounded(parse, MAX_OTHER_BYTES)
        if handler.unary_unary:
            behavior = self._limit(full_method, with_message(parse, self._message_seconds, handler.unary_unary))
            observed = self._observe(full_method, behavior)
            return grpc.stream_unary_rpc_method_handler(observed, response_serializer=serialize)
        if handler.unary_stream:
            replies = stream_with_message(parse, self._message_seconds, handler.unary_stream)
        else:
            replies = stream_with_messages(parse, handler.stream_stream)
        held = self._hold(full_method, replies)
        return grpc.stream_stream_rpc_method_handler(held, response_serializer=serialize)

    def _limit(self, full_method: str, behavior: Behavior) -> Behavior:
        """`behavior`, in a place that a call was found to have."""
        admission = self._admissions[full_method]

        async def answer(messages: Messages, context: Context) -> Any:
            """Answer in that place."""
            with admission:
                return await behavior(messages, context)

        return answer

    def _refuse(self, full_method: str, error: Overloaded) -> Handler:
        """What ends calls for which there is no place: made once, since they come when there is enough to do."""
        method, code, reason = _short(full_method), status_code(type(error)), type(error).__name__
        refused = self._metrics.refused.labels(method, reason)
        seconds = self._metrics.seconds.labels(method, code.name)

        async def refuse(_: Messages, context: Context) -> None:
            """Refuse a call, without waiting for its message."""
            started = time.perf_counter()
            if (record := self._watch.begin(full_method, context)) is not None:
                self._watch.end(record, code, reason)
            refused.inc()
            ask_to_wait(context, error)
            seconds.observe(time.perf_counter() - started)
            await abort(context, code, str(error))

        return grpc.stream_unary_rpc_method_handler(refuse)

    def _observe(self, full_method: str, behavior: Behavior) -> Behavior:
        method = _short(full_method)
        in_flight = self._metrics.in_flight.labels(method)

        async def answer(messages: Messages, context: Context) -> Any:
            """`behavior`, counted and timed, with its errors as statuses."""
            started = time.perf_counter()
            code, reason = grpc.StatusCode.INTERNAL, None
            record = self._watch.begin(full_method, context)
            self._answering += 1
            context.add_done_callback(self._note_end)  # type: ignore[arg-type]  # told once the reply has left
            in_flight.inc()
            try:
                response = await behavior(messages, context)
                code = grpc.StatusCode.OK
                return response
            except asyncio.CancelledError:
                code, reason = code_of_the_gone(context), CallerGone.__name__
                self._metrics.count_gone(method, code, ran=False)
                raise
            except CallerGone as error:
                code, reason, message = code_of_the_gone(context), type(error).__name__, str(error)
                self._metrics.count_gone(method, code, ran=error.ran)
            except RequestError as error:
                code, reason, message = status_code(type(error)), type(error).__name__, str(error)
                self._metrics.refused.labels(method, reason).inc()
                if isinstance(error, Overloaded):
                    ask_to_wait(context, error)
            except Exception as error:
                reason, message = type(error).__name__, INTERNAL_MESSAGE
                log.exception("call failed", method=method)
            finally:
                in_flight.dec()
                seconds = time.perf_counter() - started
                self._metrics.seconds.labels(method, code.name).observe(seconds)
                if record is not None:
                    self._watch.end(record, code, reason)
            return await abort(context, code, message)

        return answer

    def _note_end(self, _: object) -> None:
        self._answering -= 1

    def _hold(self, full_method: str, behavior: StreamBehavior) -> Callable[[Messages, Context], Awaitable[None]]:
        """`behavior`, which answers with a stream, remembered while it is open."""

        async def answer(messages: Messages, context: Context) -> None:
            """Write what there is to say, until the server ends the stream or its caller leaves."""
            stream = asyncio.current_task()
            assert stream is not None  # noqa: S101  gRPC runs every call as a task
            self._streams.add(stream)
            try:
                with self._open_streams:
                    async with aclosing(behavior(messages, context)) as replies:
                        async for reply in replies:
                            await context.write(reply)
                return
            except RequestError as error:
                code, message = status_code(type(error)), str(error)
            except asyncio.CancelledError:
                # Where the caller has left, this reaches nobody; where the server leaves, gRPC would say nothing.
                code, message = grpc.StatusCode.CANCELLED, "the server has ended the stream"
            except grpc.aio.BaseError:  # the connection broke, which is gRPC's to deal with
                raise
            except Exception:
                log.exception("call failed", method=_short(full_method))
                code, message = grpc.StatusCode.INTERNAL, INTERNAL_MESSAGE
            finally:
                self._streams.discard(stream)
            await abort(context, code, message)

        return answer


def _short(full_method: str) -> str:
    """`Classify` of `/consort.v1.Classifier/Classify`."""
    return full_method.rpartition("/")[2]
