"""What happens around every call: errors become gRPC statuses, and unary calls are counted and timed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import structlog
from prometheus_client import Counter

from serving.admission import LIMITED_METHODS, Admission
from serving.context import Context, Handler
from serving.errors import CallerGone, Overloaded, RequestError
from serving.messages import (
    Behavior,
    Messages,
    bounded,
    stream_with_message,
    stream_with_messages,
    with_message,
)
from serving.metrics.calls import CallMetrics
from serving.observation import CallWatch, CallWatcher
from serving.statuses import (
    INTERNAL_MESSAGE,
    Status,
    abort,
    add_trailing_metadata,
    code_of_the_gone,
    refusal_of,
    status_code,
)
from serving.streams import Streams

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
        self._streams = Streams()
        self._message_seconds = message_seconds
        self._watch = CallWatch(watchers)
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
        return method.refuse if method.admission.is_full() else method.answer

    def find_refusal(self, full_method: str) -> Status | None:
        """What ends a call before anything else is done for it, its token looked at included: no place is left.

        None where there may be one; calls that are taken in together come to `intercept_service` for it. So do all
        calls where somebody watches, who wants to know more of them.
        """
        method = self._methods.get(full_method)
        if method is None or self._watch.is_kept() or not method.admission.is_full():
            return None
        method.arrived.inc()
        return method.refusal.count()

    def _take_over(self, full_method: str, handler: Handler) -> _Method:
        admission, short = self._admission_of(full_method, handler), _short(full_method)
        refusal = _Refusal(short, admission.refusal(), self._metrics)
        return _Method(
            self._metrics.arrived.labels(short),
            admission,
            refusal,
            self._refuse(full_method, refusal),
            self._wrap(full_method, handler, admission),
        )

    def _admission_of(self, full_method: str, handler: Any) -> Admission:
        if full_method in LIMITED_METHODS:
            return self._admission
        return self._other_calls if handler.unary_unary else self._streams.places

    def _wrap(self, full_method: str, handler: Any, admission: Admission) -> Handler:
        """The same method, as one that takes a stream of messages.

        So a call begins before its message is there: whoever is refused is not waited for. And where gRPC itself
        waits for one message, on asyncio, it never answers a call that ends without.
        """
        parse, serialize = handler.request_deserializer, handler.response_serializer
        if full_method not in LIMITED_METHODS:
            parse = bounded(parse, MAX_OTHER_BYTES)
        if handler.unary_unary:
            behavior = admission.limit(with_message(parse, self._message_seconds, handler.unary_unary))
            observed = self._observe(full_method, behavior)
            return grpc.stream_unary_rpc_method_handler(observed, response_serializer=serialize)
        if handler.unary_stream:
            replies = stream_with_message(parse, self._message_seconds, handler.unary_stream)
        else:
            replies = stream_with_messages(parse, handler.stream_stream)
        held = self._streams.hold(_short(full_method), replies)
        return grpc.stream_stream_rpc_method_handler(held, response_serializer=serialize)

    def _refuse(self, full_method: str, refusal: _Refusal) -> Handler:
        """What ends calls for which there is no place."""

        async def refuse(_: Messages, context: Context) -> None:
            """Refuse a call, without waiting for its message."""
            status = refusal.count()
            if (record := self._watch.begin(full_method, context)) is not None:
                self._watch.end(record, status.code, refusal.reason)
            add_trailing_metadata(context, status)
            await abort(context, status.code, status.message)

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
                    add_trailing_metadata(context, refusal_of(error))
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


@dataclass(frozen=True)
class _Method:
    """What is kept of a method: who has a place, and what answers calls without and with one."""

    arrived: Counter
    admission: Admission
    refusal: _Refusal
    refuse: Handler
    answer: Handler


class _Refusal:
    """Of calls without a place: made once for each method, since they come when there is enough to do."""

    def __init__(self, method: str, error: Overloaded, metrics: CallMetrics) -> None:
        self.reason = type(error).__name__
        self._status = refusal_of(error)
        self._refused = metrics.refused.labels(method, self.reason)
        self._seconds = metrics.seconds.labels(method, self._status.code.name)

    def count(self) -> Status:
        """Count one more, which waited for nothing."""
        self._refused.inc()
        self._seconds.observe(0.0)
        return self._status


def _short(full_method: str) -> str:
    """`Classify` of `/consort.v1.Classifier/Classify`."""
    return full_method.rpartition("/")[2]
