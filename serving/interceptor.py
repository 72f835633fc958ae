"""What happens around every call: errors become gRPC statuses, and unary calls are counted and timed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc
import structlog
from prometheus_client import Counter, Histogram

from serving.admission import LIMITED_METHODS, Admission
from serving.context import Context, Handler
from serving.errors import CallerGone, RequestError, TooManyCalls
from serving.messages import (
    Behavior,
    Messages,
    bounded,
    stream_with_message,
    stream_with_messages,
    with_message,
)
from serving.metrics.calls import CallMetrics
from serving.observation import CallWatch
from serving.statuses import INTERNAL, Status, abort, code_of_the_gone, status_of
from serving.streams import Streams

MAX_OTHER_CALLS = 4096
"""Unary calls in progress that ask no model; apart from streams, so that these shut no probe out."""
MAX_OTHER_BYTES = 2**16
"""Largest message of a method that asks no model: none needs much, and some may be called by anybody."""
MOST_OTHER_SECONDS = 5.0
"""How long such a message may take to come, at most: gRPC keeps meanwhile what has come, up to max_call_bytes."""
NO_METHOD = "(none)"
"""Counts calls of methods that there are not, whatever their names."""

log = structlog.get_logger()


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps the methods of every service on the server."""

    def __init__(
        self,
        metrics: CallMetrics,
        admission: Admission,
        watch: CallWatch | None = None,
        message_seconds: float = 60.0,
    ) -> None:
        """Wrap all methods.

        Args:
            metrics: Where calls are counted.
            admission: Of the methods that ask a model.
            watch: Is shown the calls.
            message_seconds: How long a call's message may take to come; where no model is asked, 5 s at most.
        """
        self._metrics = metrics
        self._admission = admission
        self._other_calls = Admission(MAX_OTHER_CALLS)
        self._streams = Streams(metrics)
        self._message_seconds = message_seconds
        self._watch = watch or CallWatch(())
        self._methods: dict[str, _Method] = {}
        self._answering = 0

    def is_answering(self) -> bool:
        """Whether a call is in progress that is no stream."""
        return self._answering > 0

    def end_streams(self) -> None:
        """End all streams: those that watch the health, for one, never end by themselves."""
        self._streams.end()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Give the wrapped handler of a call's method; None if there is no such method."""
        full_method = handler_call_details.method
        if full_method not in self._methods:
            handler = await continuation(handler_call_details)
            if handler is None:
                self._metrics.arrived.labels(NO_METHOD).inc()
                return None
            self._methods[full_method] = self._take_over(full_method, handler)
        method = self._methods[full_method]
        method.arrived.inc()
        return method.handler

    def is_full(self, full_method: str) -> bool:
        """Whether a call of a method would find no place."""
        method = self._methods.get(full_method)
        return method is not None and method.admission.is_full()

    def refuse(self, full_method: str, context: Context) -> Status:
        """What ends a call for which there is no place, without anything else being done for it."""
        method = self._methods[full_method]
        method.arrived.inc()
        method.refused.inc()
        method.refused_seconds.observe(0.0)
        self._watch.note_refusal(full_method, context, method.refusal.code, TooManyCalls.__name__)
        return method.refusal

    def _take_over(self, full_method: str, handler: Handler) -> _Method:
        admission, short = self._admission_of(full_method, handler), _short(full_method)
        refusal = status_of(admission.refusal())
        return _Method(
            handler=self._wrap(full_method, handler, admission),
            admission=admission,
            refusal=refusal,
            arrived=self._metrics.arrived.labels(short),
            refused=self._metrics.refused.labels(short, TooManyCalls.__name__),
            refused_seconds=self._metrics.seconds.labels(short, refusal.code.name),
        )

    def _admission_of(self, full_method: str, handler: Any) -> Admission:
        if full_method in LIMITED_METHODS:
            return self._admission
        return self._other_calls if handler.unary_unary else self._streams.places

    # The type stubs of handlers know of threads alone.
    def _wrap(self, full_method: str, handler: Any, admission: Admission) -> Handler:
        """The same method, as one that takes a stream of messages.

        So a call begins before its message is there: whoever is refused is not waited for. And where gRPC itself
        waits for one message, on asyncio, it never answers a call that ends without.
        """
        parse, serialize = handler.request_deserializer, handler.response_serializer
        seconds = self._message_seconds
        if full_method not in LIMITED_METHODS:
            parse, seconds = bounded(parse, MAX_OTHER_BYTES), min(seconds, MOST_OTHER_SECONDS)
        if handler.unary_unary:
            behavior = admission.limit(with_message(parse, seconds, handler.unary_unary))
            observed = self._observe(full_method, behavior)
            return grpc.stream_unary_rpc_method_handler(observed, response_serializer=serialize)
        if handler.unary_stream:
            replies = stream_with_message(parse, seconds, handler.unary_stream)
        else:
            replies = stream_with_messages(parse, handler.stream_stream)
        held = self._streams.hold(_short(full_method), replies)
        return grpc.stream_stream_rpc_method_handler(held, response_serializer=serialize)

    def _observe(self, full_method: str, behavior: Behavior) -> Behavior:
        method = _short(full_method)
        in_flight = self._metrics.in_flight.labels(method)

        async def answer(messages: Messages, context: Context) -> Any:
            """`behavior`, counted and timed, with its errors as statuses."""
            started = time.perf_counter()
            code, reason, status = grpc.StatusCode.INTERNAL, None, INTERNAL
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
                code, reason = code_of_the_gone(context), type(error).__name__
                status = Status(code, str(error))
                self._metrics.count_gone(method, code, ran=error.ran)
            except RequestError as error:
                status, reason = status_of(error), type(error).__name__
                code = status.code
                self._metrics.refused.labels(method, reason).inc()
            except Exception as error:
                reason = type(error).__name__
                log.exception("call failed", method=method)
            finally:
                in_flight.dec()
                seconds = time.perf_counter() - started
                self._metrics.seconds.labels(method, code.name).observe(seconds)
                if record is not None:
                    self._watch.end(record, code, reason)
            return await abort(context, status)

        return answer

    def _note_end(self, _: object) -> None:
        self._answering -= 1


@dataclass(frozen=True)
class _Method:
    """What is kept of a method; most of it for calls that find no place, which come when there is enough to do."""

    handler: Handler
    admission: Admission
    refusal: Status
    arrived: Counter
    refused: Counter
    refused_seconds: Histogram


def _short(full_method: str) -> str:
    """`Classify` of `/consort.v1.Classifier/Classify`."""
    return full_method.rpartition("/")[2]
