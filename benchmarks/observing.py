"""What it costs to watch calls: access log and tracing beside neither, in turn: `python -m benchmarks.observing`.

Servers of the cheaper model answer with one member's opinion on one image: little else is there to hide the cost.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict
from rich.console import Console
from rich.table import Table

from benchmarks.load import WARM_UP_SECONDS, Load, callers, classify_request, drive, pixels_of
from benchmarks.servers import run_server
from benchmarks.wire import processor_seconds

MODEL, SHAPE = "mnist-small", (1, 28, 28)
COLLECTOR = "opentelemetry.proto.collector.trace.v1.TraceService"


class ObservingSettings(BaseSettings):
    """Measure servers that watch their calls and one that does not."""

    model_config = SettingsConfigDict(
        cli_prog_name="python -m benchmarks.observing", use_attribute_docstrings=True, cli_kebab_case=True
    )

    models: Path = Path("models")
    """Folder of bundles."""
    callers: int = Field(8, ge=1)
    """How many call at the same time."""
    seconds: float = Field(2.0, gt=0)
    """Of every measurement."""
    rounds: int = Field(9, ge=1)
    """How often each is measured."""


def main() -> None:
    """Print a row for each way to watch."""
    settings = ObservingSettings(_cli_parse_args=True)
    request = classify_request(pixels_of(1, SHAPE), MODEL, max_members=1)
    measured: dict[str, list[tuple[float, float]]] = {}
    with ExitStack() as stack, callers(1) as pool:
        endpoint = stack.enter_context(run_collector())
        base = ("--models", str(settings.models), "--log-format", "json")
        ways = {
            "neither": (),
            "access log: 1 % and all failures": ("--access-log-share", "0.01", "--access-log-error-share", "1"),
            "access log: every call": ("--access-log-share", "1"),
            "tracing: every call": ("--trace-endpoint", endpoint),
        }
        servers = {name: stack.enter_context(run_server(*base, *more)) for name, more in ways.items()}
        for _ in range(settings.rounds):
            for name, server in servers.items():
                before = processor_seconds(server.pid)
                load = Load(server.target, request, 1, settings.callers, settings.seconds)
                outcome = drive(load, pool, 1)
                spent = processor_seconds(server.pid) - before
                calls = len(outcome.seconds) * (1 + WARM_UP_SECONDS / settings.seconds)
                measured.setdefault(name, []).append((outcome.images_per_second(), spent / calls * 1e6))
    Console(width=110).print(tabulate(measured))


def tabulate(measured: dict[str, list[tuple[float, float]]]) -> Table:
    """A row for each way: medians and ranges, and the median of the ratios to the first way in the same round."""
    table = Table("watched by", "calls/s", "range", "processor us a call", "range", "beside the first")
    first = next(iter(measured.values()))
    for name, rounds in measured.items():
        rates, costs = zip(*rounds, strict=True)
        ratio = statistics.median(cost / one for cost, (_, one) in zip(costs, first, strict=True))
        table.add_row(
            name,
            f"{statistics.median(rates):,.0f}",
            f"{min(rates):,.0f} to {max(rates):,.0f}",
            f"{statistics.median(costs):.0f}",
            f"{min(costs):.0f} to {max(costs):.0f}",
            f"{ratio:.2f}",
        )
    return table


@contextmanager
def run_collector() -> Iterator[str]:
    """An OTLP collector that forgets what it is sent; gives its endpoint."""
    handlers: dict[str, Any] = {"Export": grpc.unary_unary_rpc_method_handler(lambda _request, _context: b"")}
    server: Any = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(COLLECTOR, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"http://127.0.0.1:{port}"
    server.stop(0).wait()


if __name__ == "__main__":
    main()
