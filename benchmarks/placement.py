"""What it brings that inference threads keep to their cores, and what it costs beside another program.

`python -m benchmarks.placement` sends load to two servers in turn, of which one leaves its threads to Linux
(`benchmarks.unbound`): alone, and beside a program that computes all the time, which runs anywhere, or keeps to
one core, or does that and stands back as the inference threads do, so that it leaves them half.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict
from rich.console import Console
from rich.table import Table

from benchmarks.load import Load, Outcome, callers, classify_request, drive, pixels_of
from benchmarks.servers import run_server
from export.manifest import read_manifest
from serving.priority import NICENESS

SERVERS = {"left to Linux": "benchmarks.unbound", "bound": "serving"}
NEIGHBOURS = ("none", "anywhere", "on one core", "on one core, as nice")
LOADS: dict[str, tuple[int, float | None]] = {
    "1 caller": (1, None),
    "8 callers": (8, None),
    "32 callers": (32, None),
    "200 a second": (1, 200.0),
}
"""Callers that wait for each answer, or calls a second whether they are answered or not."""


class PlacementSettings(BaseSettings):
    """Measure what binding inference threads brings, alone and beside another program."""

    model_config = SettingsConfigDict(
        cli_prog_name="python -m benchmarks.placement", use_attribute_docstrings=True, cli_kebab_case=True
    )

    models: Path = Path("models")
    """Folder of bundles."""
    bundle: str = "mnist/2"
    """Name and version of the one that is asked."""
    rounds: int = Field(7, ge=1)
    """How often each server takes its turn."""
    seconds: float = Field(1.5, gt=0)
    """Of every measurement."""


def main() -> None:
    """Print a row for each neighbour and load."""
    settings = PlacementSettings(_cli_parse_args=True)
    name, _ = settings.bundle.split("/")
    shape = read_manifest(settings.models / settings.bundle).input.shape
    request = classify_request(pixels_of(1, shape), name)
    table = Table("another program", "load", *(f"{server}: images/s, p50, p99 ms" for server in SERVERS), "times")
    with ExitStack() as stack:
        arguments = ("--models", str(settings.models), "--log-format", "json")
        targets = {
            server: stack.enter_context(run_server(*arguments, module=module)).target
            for server, module in SERVERS.items()
        }
        pool = stack.enter_context(callers(1))
        for neighbour in NEIGHBOURS:
            with computing(neighbour):
                measured: dict[tuple[str, str], list[Outcome]] = {}
                for _ in range(settings.rounds):
                    for title, (many, rate) in LOADS.items():
                        for server, target in targets.items():
                            load = Load(target, request, 1, many, settings.seconds, rate)
                            measured.setdefault((title, server), []).append(drive(load, pool, 1))
            for title in LOADS:
                found = [measured[title, server] for server in SERVERS]
                free, bound = (
                    statistics.median(one.images_per_second() for one in outcomes) for outcomes in found
                )
                table.add_row(neighbour, title, *map(describe, found), f"{bound / free:.2f}")
    Console(width=130).print(table)


@contextmanager
def computing(where: str) -> Iterator[None]:
    """Have another program compute meanwhile, or none; on one core is on the first."""
    if where == "none":
        yield
        return
    command = [sys.executable, "-c", "while True: pass"]
    with subprocess.Popen(command, start_new_session=True) as process:  # noqa: S603  our own command
        if where.startswith("on one core"):
            os.sched_setaffinity(process.pid, {min(os.sched_getaffinity(0))})
        if where.endswith("as nice"):
            os.setpriority(os.PRIO_PROCESS, process.pid, NICENESS)
        try:
            yield
        finally:
            process.kill()


def describe(outcomes: list[Outcome]) -> str:
    """Medians over the rounds, and the range of images a second."""
    rates = [outcome.images_per_second() for outcome in outcomes]
    p50, p99 = (statistics.median(one.percentile_ms(share) for one in outcomes) for share in (50, 99))
    return f"{statistics.median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f}), {p50:.1f}, {p99:.1f}"


if __name__ == "__main__":
    main()
