"""What happens around every unary call: it is counted and timed, and its errors become gRPC statuses."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import Any, NoReturn, TypeAlias

import grpc
import structlog

from serving.errors import InvalidRequest, Overloaded, RequestError, ShuttingDown, UnknownModel
from serving.metrics import Metrics

STATUS_CODES: dict[type[RequestError], grpc.StatusCode] = {
    InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    UnknownModel: grpc.StatusCode.NOT_FOUND,
    Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ShuttingDown: grpc.StatusCode.UNAVAILABLE,
}
"""Subclasses take their nearest parent's status."""
INTERNAL_MESSAGE = "the server failed to answer this call; its log has the details"

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # a generic in the type stubs alone
Behavior = Callable[[Any, grpc.ServicerContext], Any]

log = structlog.get_logger()


class CallInterceptor(grpc.ServerInterceptor):
    """Wraps the unary calls of every service on the server; streams pass untouched."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._calls = 0
        self._changed = threading.Condition()

    def wait_until_idle(self, timeout_seconds: float) -> bool:
        """Wait until no unary call is in progress; False if some still are after the timeout."""
        with self._changed:
            return self._changed.wait_for(lambda: self._calls == 0, timeout_seconds)

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Handler | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Wrap the handler that was found for a call."""
        handler = continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            return handler
        method = handler_call_details.method.rpartition("/")[2]
        return grpc.unary_unary_rpc_method_handler(
            self._observe(method, handler.unary_unary),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _observe(self, method: str, behavior: Behavior) -> Behavior:
        def answer(request: Any, context: grpc.ServicerContext) -> Any:
            started = time.perf_counter()
            code = grpc.StatusCode.INTERNAL
            try:
                with self._in_progress(method):
                    response = behavior(request, context)
                code = grpc.StatusCode.OK
                return response
            except RequestError as error:
                code = status_code(type(error))
                _abort(context, code, str(error))
            except CancelledError:  # the caller has gone while the call waited
                code = grpc.StatusCode.CANCELLED
                _abort(context, code, "the caller cancelled the call, or its deadline passed")
            except Exception:
                log.exception("call failed", method=method)
                _abort(context, code, INTERNAL_MESSAGE)
            finally:
                seconds = time.perf_counter() - started
                self._metrics.call_seconds.labels(method, code.name).observe(seconds)

        return answer

    @contextmanager
    def _in_progress(self, method: str) -> Iterator[None]:
        with self._changed:
            self._calls += 1
        try:
            with self._metrics.in_flight.labels(method).track_inprogress():
                yield
        finally:
            with self._changed:
                self._calls -= 1
                self._changed.notify_all()


def status_code(error: type[RequestError]) -> grpc.StatusCode:
    """The gRPC status of a request error: its own, or its nearest parent's."""
    return next(STATUS_CODES[kind] for kind in error.__mro__ if kind in STATUS_CODES)


def _abort(context: grpc.ServicerContext, code: grpc.StatusCode, message: str) -> NoReturn:
    context.abort(code, message)
    raise AssertionError("abort always raises")
