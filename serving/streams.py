"""Calls that are answered with a stream, such as those that watch the health: limited, ended with the server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing

import grpc
import structlog

from serving.admission import Admission
from serving.context import Context
from serving.errors import RequestError
from serving.messages import Messages, StreamBehavior
from serving.metrics.calls import CallMetrics
from serving.statuses import INTERNAL, Status, abort, status_of

MAX_STREAMS = 8192
"""Streams that may be open, such as those of clients who watch the health; each takes 20 KB."""

log = structlog.get_logger()


class Streams:
    """Those that are open."""

    def __init__(self, metrics: CallMetrics) -> None:
        self.places = Admission(MAX_STREAMS)
        self._metrics = metrics
        self._open: set[asyncio.Task[None]] = set()

    def end(self) -> None:
        """End all."""
        for stream in self._open:
            stream.cancel()

    def hold(self, method: str, behavior: StreamBehavior) -> Callable[[Messages, Context], Awaitable[None]]:
        """`behavior`, remembered while it is open, with its errors as statuses."""

        async def answer(messages: Messages, context: Context) -> None:
            """Write what there is to say, until the server ends the stream or its caller leaves."""
            stream = asyncio.current_task()
            assert stream is not None  # noqa: S101  gRPC runs every call as a task
            self._open.add(stream)
            try:
                with self.places:
                    async with aclosing(behavior(messages, context)) as replies:
                        async for reply in replies:
                            await context.write(reply)
                return
            except RequestError as error:
                status = status_of(error)
                self._metrics.refused.labels(method, type(error).__name__).inc()
            except asyncio.CancelledError:
                # Where the caller has left, this reaches nobody; where the server leaves, gRPC would say nothing.
                status = Status(grpc.StatusCode.CANCELLED, "the server has ended the stream")
            except grpc.aio.BaseError:  # the connection broke, which is gRPC's to deal with
                raise
            except Exception:
                log.exception("call failed", method=method)
                status = INTERNAL
            finally:
                self._open.discard(stream)
            await abort(context, status)

        return answer
