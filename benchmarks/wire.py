"""What gRPC alone costs in Python: calls like `Classify` that do nothing, answered by threads and by asyncio.

`python -m benchmarks.wire` starts the servers, asks them in turn, and prints calls a second and the server's own
processor time a call. Consort answers on uvloop and takes calls in itself; the rest of a `Classify` is added.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import product
from typing import Any, Literal

import grpc
import uvloop
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict
from rich.console import Console
from rich.table import Table

from benchmarks.load import WARM_UP_SECONDS, Load, callers, classify_request, drive, pixels_of
from benchmarks.servers import run_server
from serving.call_server import CallServer

REPLY = bytes(200)
WAYS = ("threads", "asyncio", "uvloop", "consort")
CLASSIFIER = "consort.v1.Classifier"
THREADS = 136


class WireSettings(BaseSettings):
    """Measure servers that answer without looking at what came."""

    model_config = SettingsConfigDict(
        cli_prog_name="python -m benchmarks.wire", use_attribute_docstrings=True, cli_kebab_case=True
    )

    serve: Literal["threads", "asyncio", "uvloop", "consort"] | None = None
    """Be one of the servers, instead of measuring all."""
    callers: list[int] = [1, 8, 32]
    """How many call at the same time."""
    seconds: float = Field(3.0, gt=0)
    """Of every measurement."""
    rounds: int = Field(5, ge=1)
    """How often each is measured."""
    grpc_port: int = 0
    """Port for gRPC; 0 takes a free one."""
    metrics_port: int = 0
    """Taken for the sake of the command that starts all servers alike; there are no metrics."""


def main() -> None:
    """Print a row for each server and number of callers."""
    settings = WireSettings(_cli_parse_args=True)
    if settings.serve == "threads":
        serve_by_threads(settings.grpc_port)
    elif settings.serve:
        factory = None if settings.serve == "asyncio" else uvloop.new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(serve_by_asyncio(settings.grpc_port, with_our_own=settings.serve == "consort"))
    else:
        measure(settings)


def measure(settings: WireSettings) -> None:
    """Ask all servers in turn."""
    request = classify_request(pixels_of(1, (1, 28, 28)), "mnist")
    measured: dict[tuple[str, int], list[tuple[float, float]]] = {}
    with ExitStack() as stack:
        pool = stack.enter_context(callers(1))
        servers = [stack.enter_context(run_server("--serve", name, module="benchmarks.wire")) for name in WAYS]
        for _ in range(settings.rounds):
            for (name, server), many in product(zip(WAYS, servers, strict=True), settings.callers):
                before = server.processor_seconds()
                outcome = drive(Load(server.target, request, 1, many, settings.seconds), pool, 1)
                spent = server.processor_seconds() - before
                calls = len(outcome.seconds) * (1 + WARM_UP_SECONDS / settings.seconds)
                measured.setdefault((name, many), []).append((outcome.images_per_second(), spent / calls))
    table = Table("server", "callers", "calls/s", "range", "processor us a call")
    for (name, many), rounds in measured.items():
        rates, costs = zip(*rounds, strict=True)
        spread = f"{min(rates):,.0f} to {max(rates):,.0f}"
        cost = f"{statistics.median(costs) * 1e6:.0f}"
        table.add_row(name, str(many), f"{statistics.median(rates):,.0f}", spread, cost)
    Console(width=110).print(table)


def serve_by_threads(port: int) -> None:
    """A thread of a pool answers each."""
    server = grpc.server(ThreadPoolExecutor(THREADS))
    handlers = _handlers(lambda _request, _context: REPLY)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(CLASSIFIER, handlers),))
    _say_ready(server.add_insecure_port(f"127.0.0.1:{port}"))
    server.start()
    server.wait_for_termination()


async def serve_by_asyncio(port: int, *, with_our_own: bool) -> None:
    """All calls in one thread's event loop, taken in by gRPC's code or by ours."""

    async def answer(_request: bytes, _context: object) -> bytes:
        return REPLY

    handlers = _handlers(answer)
    server: Any
    if with_our_own:
        methods = {f"/{CLASSIFIER}/{method}": handler for method, handler in handlers.items()}
        server = CallServer(methods, lambda _method, _context: None, (), ())
    else:
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(CLASSIFIER, handlers),))
    opened = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    _say_ready(opened)
    await server.wait_for_termination()


def _handlers(behavior: Callable[[Any, Any], Any]) -> dict[str, Any]:
    return {"Classify": grpc.unary_unary_rpc_method_handler(behavior)}


def _say_ready(port: int) -> None:
    print(json.dumps({"event": "ready", "grpc_port": port, "metrics_port": 0}), file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
