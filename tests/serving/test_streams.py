"""What the interceptor remembers of streams, however early their callers leave."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

from serving.admission import Admission
from serving.interceptor import MAX_BLOCKING_STREAMS, CallInterceptor
from serving.metrics import Metrics


class Refused(Exception):
    """Stands for the end that `abort` puts to a call."""


class Stream:
    """A stream's context, of a caller who has gone already or is still there."""

    def __init__(self, *, gone: bool) -> None:
        self._gone = gone
        self._at_end: list[Callable[[], object]] = []

    def add_callback(self, callback: Callable[[], object]) -> bool:
        """As gRPC does it: of a call that has ended, nobody is told."""
        if not self._gone:
            self._at_end.append(callback)
        return not self._gone

    def abort(self, *_: object) -> None:
        raise Refused

    def leave(self) -> None:
        self._gone = True
        for callback in self._at_end:
            callback()


class Details(grpc.HandlerCallDetails):
    method = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    invocation_metadata = (("user-agent", "test"),)


def answers(stream: Any, interceptor: CallInterceptor) -> bool:
    """Whether a stream gets its answer."""
    handler: Any = grpc.stream_stream_rpc_method_handler(lambda _requests, _context: iter(["told"]))
    wrapped: Any = interceptor.intercept_service(lambda _: handler, Details())
    try:
        return list(wrapped.stream_stream(iter(()), stream)) == ["told"]
    except Refused:
        return False


def test_streams_whose_callers_have_gone_take_no_place() -> None:
    interceptor = CallInterceptor(Metrics().calls, Admission(1))
    for _ in range(2 * MAX_BLOCKING_STREAMS):
        assert answers(Stream(gone=True), interceptor)
    there = [Stream(gone=False) for _ in range(MAX_BLOCKING_STREAMS + 1)]
    assert [answers(stream, interceptor) for stream in there] == [True] * MAX_BLOCKING_STREAMS + [False]
    there[0].leave()
    assert answers(Stream(gone=False), interceptor)
