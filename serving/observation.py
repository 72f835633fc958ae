"""What is known of one call while it runs, for those that watch calls: the access log and tracing.

Nobody watches by default, and then there is no record and nothing to pay. A record never holds images or tokens.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol

import grpc

from export.manifest import Manifest
from serving.context import Context
from serving.metrics.models import Timing

REQUEST_ID = "x-request-id"
"""Metadata of a call by which its caller names it, and of its reply."""
MAX_REQUEST_ID = 128
"""Longest request id that is taken over, in characters; the rest is cut off."""
TRACE_CONTEXT = ("traceparent", "tracestate")
"""Metadata by which a call belongs to a trace (W3C Trace Context). No other is kept: there may be tokens in it."""
UNWATCHED = "/grpc.health.v1.Health/"
"""Probes call it all the time, and nobody wants to read that they did."""


@dataclass
class CallRecord:
    """One call.

    Attributes:
        method: In full, as `/consort.v1.Classifier/Classify`.
        request_id: The caller's, or one made for the call.
        trace_context: Metadata that says which trace it belongs to, by name.
        began: When it arrived, on the clock of `time.perf_counter`.
        ended: When its answer was ready, on the same clock.
        code: Its gRPC status.
        error: The class of what went wrong.
        model: Name of the model that it asked.
        version: Of the model.
        images: How many it asked about.
        asked: When decoding began, on the same clock.
        stages: Seconds of each stage that it went through, in their order.
        trace_id: Of the trace that it belongs to, in hexadecimal.
    """

    method: str
    request_id: str
    trace_context: dict[str, str]
    began: float
    ended: float = 0.0
    code: grpc.StatusCode = grpc.StatusCode.OK
    error: str | None = None
    model: str | None = None
    version: int | None = None
    images: int | None = None
    asked: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)
    trace_id: str | None = None


class CallWatcher(Protocol):
    """Is told of every call that has ended."""

    def end(self, record: CallRecord) -> None:
        """Take note of a call; must neither raise nor wait."""


_current: ContextVar[CallRecord | None] = ContextVar("call", default=None)


class CallWatch:
    """Keeps a record of every call and shows it to the watchers, in their order."""

    def __init__(self, watchers: Sequence[CallWatcher]) -> None:
        self._watchers = watchers

    def begin(self, method: str, context: Context) -> CallRecord | None:
        """Open the record of the call that runs in this task; None if nobody watches."""
        if (record := self._open(method, context)) is not None:
            _current.set(record)  # gRPC runs every call as a task of its own
        return record

    def note_refusal(self, method: str, context: Context, code: grpc.StatusCode, error: str) -> None:
        """Show a call that ends before it has begun."""
        if (record := self._open(method, context)) is not None:
            self.end(record, code, error)

    def _open(self, method: str, context: Context) -> CallRecord | None:
        """A record, whose request id the call's caller is given."""
        if not self._watchers or method.startswith(UNWATCHED):
            return None
        began = time.perf_counter()
        metadata = dict(context.invocation_metadata() or ())
        request_id = str(metadata.get(REQUEST_ID, ""))[:MAX_REQUEST_ID]
        if not (request_id and request_id.isascii() and request_id.isprintable()):  # gRPC could not send it back
            request_id = uuid.uuid4().hex
        context.set_trailing_metadata(((REQUEST_ID, request_id),))
        trace_context = {name: str(metadata[name]) for name in TRACE_CONTEXT if name in metadata}
        return CallRecord(method, request_id, trace_context, began)

    def end(self, record: CallRecord, code: grpc.StatusCode, error: str | None) -> None:
        """Close a call's record."""
        record.ended, record.code, record.error = time.perf_counter(), code, error
        for watcher in self._watchers:
            watcher.end(record)


def note_question(manifest: Manifest, images: int, asked: float, decode_seconds: float) -> None:
    """Note, where the call is watched, what it asks and how long it took to decode."""
    if (record := _current.get()) is not None:
        record.model, record.version, record.images = manifest.name, manifest.version, images
        record.asked = asked
        record.stages["decode"] = decode_seconds


def note_answer(timing: Timing) -> None:
    """Note, where the call is watched, what the stages after decoding took."""
    if (record := _current.get()) is not None:
        record.stages |= {"queue": timing.queue_seconds, "inference": timing.inference_seconds}
