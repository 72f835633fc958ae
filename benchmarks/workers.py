"""What several workers bring, and how many cores one of them feeds: `python -m benchmarks.workers`.

The same server with each number of workers in turn, on the same cores and inference threads: for the shipped
models, and for a stub whose inference costs next to nothing, so that what is left is the price of taking a call
in. As far as the interpreter's lock is held all the while, a process takes in one call in that time; so it feeds
as many cores as the price of a whole call is times the stub's, or more.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict
from rich.console import Console
from rich.table import Table

from benchmarks.load import Load, Outcome, callers, classify_request, drive, pixels_of
from benchmarks.servers import Running, run_server
from export.manifest import Manifest, read_manifest
from tests.bundles import write_bundle


class WorkersSettings(BaseSettings):
    """Compare numbers of workers."""

    model_config = SettingsConfigDict(
        cli_prog_name="python -m benchmarks.workers", use_attribute_docstrings=True, cli_kebab_case=True
    )

    bundles: list[Path] = [Path("models/mnist-small/3"), Path("models/mnist/2")]
    """What is served, beside the stub."""
    workers: list[int] = [1, 2]
    """Numbers to compare."""
    loads: list[tuple[int, int]] = [(32, 1)]
    """Callers, and images in each call."""
    seconds: float = Field(3.0, gt=0)
    """Of every measurement."""
    rounds: int = Field(5, ge=1)
    """How often each is measured."""
    processes: int = Field(2, ge=1)
    """That the callers live in."""


@dataclass
class Measured:
    """What came of one server under one load, by round.

    Attributes:
        outcomes: What the callers saw.
        processor_us: Of all of the server's processes, a call.
        cores: That they had, where other programs may want them too.
    """

    outcomes: list[Outcome] = field(default_factory=list)
    processor_us: list[float] = field(default_factory=list)
    cores: list[float] = field(default_factory=list)


def main() -> None:
    """Print a table for each load."""
    settings = WorkersSettings(_cli_parse_args=True)
    measured: dict[tuple[int, int], dict[tuple[str, int], Measured]] = {load: {} for load in settings.loads}
    with ExitStack() as stack:
        stub = write_bundle(Path(stack.enter_context(tempfile.TemporaryDirectory())), shape=(1, 28, 28))
        servers = {
            (bundle, workers): stack.enter_context(_serve(bundle, workers))
            for bundle in (stub, *settings.bundles)
            for workers in settings.workers
        }
        pool = stack.enter_context(callers(settings.processes))
        for _ in range(settings.rounds):
            for (many, images), found in measured.items():
                for (bundle, workers), server in servers.items():
                    manifest = read_manifest(bundle)
                    request = _request(manifest, images)
                    load = Load(server.target, request, images, many, settings.seconds)
                    before = _spent(server)
                    outcome = drive(load, pool, settings.processes)
                    seconds, calls = (now - then for now, then in zip(_spent(server), before, strict=True))
                    one = found.setdefault((manifest.name, workers), Measured())
                    one.outcomes.append(outcome)
                    one.processor_us.append(seconds / calls * 1e6)
                    one.cores.append(seconds / calls * len(outcome.seconds) / outcome.elapsed)
    for (many, images), found in measured.items():
        _print(many, images, found)


@contextmanager
def _serve(bundle: Path, workers: int) -> Iterator[Running]:
    name, version = bundle.parent.name, int(bundle.name)
    pinned = json.dumps({name: [version]})
    arguments = ["--models", str(bundle.parent.parent), "--pinned-versions", pinned, "--watch-seconds", "0"]
    with run_server(*arguments, "--workers", str(workers), "--log-format", "json") as server:
        yield server


def _request(manifest: Manifest, images: int) -> bytes:
    return classify_request(pixels_of(images, manifest.input.shape), manifest.name, manifest.version)


def _spent(server: Running) -> tuple[float, float]:
    """Processor seconds of all processes of a server, and the calls that it has answered."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics", timeout=10) as reply:
        families = list(text_string_to_metric_families(reply.read().decode()))
    samples = [sample for family in families for sample in family.samples]

    def total(name: str) -> float:
        return sum(sample.value for sample in samples if sample.name == name)

    return total("process_cpu_seconds_total"), total("consort_call_seconds_count")


def _print(many: int, images: int, found: dict[tuple[str, int], Measured]) -> None:
    table = Table("model", "workers", "images/s", "range", "times one", "cores", "CPU us a call", "times stub")
    table.add_column("p50, p99 ms")
    table.title = f"{many} callers, {images} images a call"
    table.title_justify = "left"
    fewest = min(workers for _, workers in found)
    for (name, workers), one in found.items():
        rates = [outcome.images_per_second() for outcome in one.outcomes]
        # Compared within a round, so that a slow minute of the machine falls on both.
        single = [outcome.images_per_second() for outcome in found[name, fewest].outcomes]
        ratio = statistics.median(rate / other for rate, other in zip(rates, single, strict=True))
        cost = statistics.median(one.processor_us)
        price = cost / statistics.median(found["stub", workers].processor_us)
        tails = (f"{statistics.median(run.percentile_ms(p) for run in one.outcomes):.1f}" for p in (50, 99))
        spread = f"{min(rates):,.0f} to {max(rates):,.0f}"
        row = (name, str(workers), f"{statistics.median(rates):,.0f}", spread, f"{ratio:.2f}")
        table.add_row(*row, f"{statistics.median(one.cores):.2f}", f"{cost:.0f}", f"{price:.1f}", ", ".join(tails))
    Console(width=115).print(table)


if __name__ == "__main__":
    main()
