"""What it costs to watch calls: access log and tracing beside neither, in turn: `python -m benchmarks.observing`.

Timed is the way of a call through the interceptor and the metrics, without gRPC and without inference, as
processor time of its own thread: what else the machine does has little part in it. Spans are sent by another
thread, whose time is not in it.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import structlog
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict
from rich.console import Console
from rich.table import Table

from benchmarks.load import METHOD
from export.manifest import read_manifest
from serving.access_log import AccessLog
from serving.admission import Admission
from serving.interceptor import CallInterceptor
from serving.metrics import Metrics
from serving.metrics.models import Timing
from serving.observation import CallWatch, CallWatcher, note_answer, note_question
from serving.tracing import open_tracing
from serving.verdict import judge

NOWHERE = "http://127.0.0.1:9"
METADATA = (("user-agent", "grpc-python/1.85"), ("x-request-id", "order-7"))
TIMING = Timing(20e-6, 30e-6, 4e-3, 4.1e-3)

Call = Callable[[], Coroutine[Any, Any, Any]]


class ObservingSettings(BaseSettings):
    """Time what stands around every call."""

    model_config = SettingsConfigDict(
        cli_prog_name="python -m benchmarks.observing", use_attribute_docstrings=True, cli_kebab_case=True
    )

    bundle: Path = Path("models/mnist/2")
    """Whose classes and members are counted."""
    calls: int = Field(2000, ge=1)
    """In a round."""
    rounds: int = Field(15, ge=1)
    """How often each way to watch has its turn."""


def main() -> None:
    """Print a row for each way to watch."""
    settings = ObservingSettings(_cli_parse_args=True)
    with Path(os.devnull).open("w") as nowhere:
        structlog.configure(
            processors=[structlog.processors.TimeStamper(fmt="iso"), structlog.processors.JSONRenderer()],
            logger_factory=structlog.PrintLoggerFactory(nowhere),
        )
        tracing = open_tracing(NOWHERE)
        ways: dict[str, list[CallWatcher]] = {
            "nobody": [],
            "access log: 1 % and all failures": [AccessLog(0.01, 1)],
            "access log: every call": [AccessLog(1, 1)],
            "tracing: every call": [*tracing],
        }
        calls = {name: make_call(settings.bundle, watchers) for name, watchers in ways.items()}
        measured: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(settings.rounds):
            for name, call in calls.items():
                measured[name].append(asyncio.run(microseconds(call, settings.calls)))
        for one in tracing:
            one.close()
    Console(width=110).print(tabulate(measured))


def make_call(bundle: Path, watchers: list[CallWatcher]) -> Call:
    """A call of one image that every member has answered already."""
    manifest = read_manifest(bundle)
    metrics = Metrics()
    of_model = metrics.models.of_model(manifest, "cpu")
    classes, members = len(manifest.class_labels), len(manifest.members)
    said = np.full((members, 1, classes), 1 / classes, np.float32)
    verdict = judge(said, np.array([members]), 1.0)

    async def behave(_request: object, _context: object) -> str:
        note_question(manifest, 1, time.perf_counter(), TIMING.decode_seconds)
        of_model.count(verdict, asked_all=True)
        of_model.time(TIMING)
        note_answer(TIMING)
        return "answer"

    async def read() -> bytes:
        return b""

    async def find(_details: object) -> Any:
        return handler

    handler: Any = grpc.unary_unary_rpc_method_handler(behave, request_deserializer=bytes)
    details: Any = SimpleNamespace(method=METHOD, invocation_metadata=METADATA)
    context: Any = SimpleNamespace(
        invocation_metadata=lambda: METADATA,
        set_trailing_metadata=lambda _metadata: None,
        add_done_callback=lambda _callback: None,
        read=read,
    )
    interceptor = CallInterceptor(metrics.calls, Admission(1), CallWatch(watchers))

    async def call() -> Any:
        wrapped: Any = await interceptor.intercept_service(find, details)
        return await wrapped.stream_unary(None, context)

    return call


async def microseconds(call: Call, times: int) -> float:
    """Processor time of this thread for one call."""
    began = time.thread_time()
    for _ in range(times):
        await asyncio.create_task(call())  # as gRPC does
    return (time.thread_time() - began) / times * 1e6


def tabulate(measured: dict[str, list[float]]) -> Table:
    """Medians, ranges, and what each way costs beyond the first."""
    table = Table("watched by", "us a call", "range", "beyond the first")
    first = statistics.median(next(iter(measured.values())))
    for name, rounds in measured.items():
        median = statistics.median(rounds)
        table.add_row(name, f"{median:.1f}", f"{min(rounds):.1f} to {max(rounds):.1f}", f"{median - first:+.1f}")
    return table


if __name__ == "__main__":
    main()
