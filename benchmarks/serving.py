"""Images a second and latencies of the server beside a naive one and beside onnxruntime alone.

`python -m benchmarks.serving` starts all of them on the same bundle and asks them in turn, several rounds over, so
that a slow minute of the machine falls on all alike. Callers and servers share the cores. The processor time that
a server spends on an image says what it costs, however much else runs on the machine.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict
from rich.console import Console
from rich.table import Table

from benchmarks.in_process import images_per_second
from benchmarks.load import WARM_UP_SECONDS, Load, Outcome, callers, drive
from benchmarks.servers import standing_still, starting_on
from benchmarks.ways import RIVALS, Way, consort, naive
from machine.cores import available_cores


class ServingSettings(BaseSettings):
    """Compare servers of one bundle."""

    model_config = SettingsConfigDict(
        cli_prog_name="python -m benchmarks.serving", use_attribute_docstrings=True, cli_kebab_case=True
    )

    bundle: Path = Path("models/mnist/2")
    """What the naive server and onnxruntime alone run."""
    contenders: list[str] = ["cpu"]
    """Our server, each on a provider, as PROVIDER or PROVIDER:BUNDLE, such as cpu:models/mnist/2."""
    pythons: dict[str, Path] = Field(default_factory=dict)
    """Interpreters for providers that another onnxruntime has: {"openvino": "/path/to/bin/python"}."""
    rivals: list[Literal["mlserver", "litserve", "pytriton"]] = []
    """Other servers to ask as well; `make rivals` installs them."""
    loads: list[tuple[int, int]] = [(1, 1), (8, 1), (32, 1), (128, 1), (2, 8), (2, 32)]
    """Callers, and images in each call."""
    seconds: float = Field(3.0, gt=0)
    """Of every measurement."""
    rounds: int = Field(5, ge=1)
    """How often each is measured."""
    processes: int = Field(2, ge=1)
    """That the callers live in."""
    servers_core: int | None = None
    """Core that the servers are bound to, with callers on the others; by default all share all cores."""


def main() -> None:
    """Print a table for each load."""
    settings = ServingSettings(_cli_parse_args=True)
    measured: dict[tuple[int, int], dict[str, list[Outcome]]] = {load: {} for load in settings.loads}
    costs: dict[tuple[int, int, str], list[float]] = {}
    limits: dict[int, list[float]] = {}
    with ExitStack() as stack:
        ways = stack.enter_context(_ways(settings))
        servers = list({way.server.pid: way.server for way in ways}.values())
        pool = stack.enter_context(callers(settings.processes))
        for _ in range(settings.rounds):
            for (many, images), outcomes in measured.items():
                for way in ways:
                    target, before = way.server.target, way.server.processor_seconds()
                    load = Load(target, way.request(images), images, many, settings.seconds, method=way.method)
                    with standing_still([one for one in servers if one is not way.server]):
                        outcome = drive(load, pool, settings.processes)
                    spent = way.server.processor_seconds() - before
                    outcomes.setdefault(way.name, []).append(outcome)
                    costs.setdefault((many, images, way.name), []).append(
                        spent / (outcome.images * (1 + WARM_UP_SECONDS / settings.seconds))
                    )
            for images in sorted({images for _, images in measured}):
                cores = 1 if settings.servers_core is not None else available_cores()
                with standing_still(servers):
                    limit = images_per_second(settings.bundle, images, cores, settings.seconds)
                limits.setdefault(images, []).append(limit)
    for (many, images), outcomes in measured.items():
        own = {name: statistics.median(costs[many, images, name]) for name in outcomes}
        _print(many, images, outcomes, own, limits[images])


@contextmanager
def _ways(settings: ServingSettings) -> Iterator[list[Way]]:
    with ExitStack() as stack:
        with starting_on(settings.servers_core):
            ways = [stack.enter_context(naive(settings.bundle))]
            ways += [stack.enter_context(RIVALS[name](settings.bundle)) for name in settings.rivals]
            for contender in settings.contenders:
                python = settings.pythons.get(contender.partition(":")[0])
                ways += stack.enter_context(consort(contender, settings.bundle, python))
        yield ways


def _print(
    many: int, images: int, outcomes: dict[str, list[Outcome]], costs: dict[str, float], limits: list[float]
) -> None:
    table = Table(
        "", "images/s", "range", "times naive", "of the limit", "processor ms", "p50 ms", "p95 ms", "p99 ms"
    )
    table.title = f"{many} callers, {images} images a call"
    table.title_justify = "left"
    naive = _median_rate(outcomes["naive"])
    limit = statistics.median(limits)
    for name, runs in outcomes.items():
        rates = [run.images_per_second() for run in runs]
        rate = statistics.median(rates)
        latencies = [f"{statistics.median(run.percentile_ms(p) for run in runs):.1f}" for p in (50, 95, 99)]
        spread = f"{min(rates):,.0f} to {max(rates):,.0f}"
        table.add_row(
            name,
            f"{rate:,.0f}",
            spread,
            f"{rate / naive:.2f}",
            f"{rate / limit:.2f}",
            f"{costs[name] * 1e3:.2f}",
            *latencies,
        )
    spread = f"{min(limits):,.0f} to {max(limits):,.0f}"
    table.add_row("onnxruntime alone", f"{limit:,.0f}", spread, f"{limit / naive:.2f}", "1.00", "", "", "", "")
    Console(width=125).print(table)


def _median_rate(runs: list[Outcome]) -> float:
    return statistics.median(run.images_per_second() for run in runs)


if __name__ == "__main__":
    main()
