"""Accuracy against images a second: `python -m benchmarks.tradeoffs` for every bundle, provider and effort.

Accuracy is that of all test images, through gRPC. Speed is that of 2 callers with 32 test images in each call, who
take turns: noise would never be settled early.
"""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict
from rich.console import Console
from rich.table import Table

from benchmarks.efforts import classify
from benchmarks.images import MNIST, read_images
from benchmarks.load import Load, callers, classify_request, drive
from benchmarks.ways import serve_contender
from export.manifest import Manifest
from serving.client import Client
from training.dataset import Images

CALLERS = 2
CALL_IMAGES = 32


class TradeoffSettings(BaseSettings):
    """Print and plot accuracy against speed."""

    model_config = SettingsConfigDict(
        env_prefix="CONSORT_",
        cli_prog_name="python -m benchmarks.tradeoffs",
        use_attribute_docstrings=True,
        cli_kebab_case=True,
        cli_hide_none_type=True,
    )

    data: Path = MNIST
    """Images that the models were trained on: a folder of the four MNIST files, say."""
    contenders: list[str] = ["cpu:models/mnist/2", "cpu:models/mnist-small/3"]
    """Servers as PROVIDER:BUNDLE; agreement is that with the first of them."""
    pythons: dict[str, Path] = Field(default_factory=dict)
    """Interpreters for providers that another onnxruntime has: {"openvino": "/path/to/bin/python"}."""
    seconds: float = Field(3.0, gt=0)
    """Of every measurement of speed."""
    rounds: int = Field(5, ge=1)
    """How often each is measured."""
    plot: Path | None = None
    """PNG file to write."""


@dataclass(frozen=True)
class Effort:
    """What is asked of the members.

    Attributes:
        name: To print.
        max_members: The first so many; 0 for all.
        early_stop: Whether an image leaves once its class is settled.
    """

    name: str
    max_members: int = 0
    early_stop: bool = False


EFFORTS = (
    Effort("all members"),
    Effort("early stop", early_stop=True),
    Effort("3 members", max_members=3),
    Effort("1 member", max_members=1),
)
MARKS = dict(zip((effort.name for effort in EFFORTS), "os^D", strict=True))


@dataclass(frozen=True)
class Point:
    """One contender at one effort.

    Attributes:
        contender: As PROVIDER:BUNDLE.
        effort: What was asked of it.
        accuracy: On the test images.
        agreement: Share of them whose class is that of the first point.
        load: To measure its speed by.
        rates: Images a second, a round each.
    """

    contender: str
    effort: Effort
    accuracy: float
    agreement: float
    load: Load
    rates: list[float] = field(default_factory=list)

    @property
    def server(self) -> str:
        """The contender as people read it, without where the folder of its models lies."""
        provider, _, bundle = self.contender.partition(":")
        return f"{provider}: {'/'.join(Path(bundle).parts[-3:])}"


def main() -> None:
    """Print the table, and plot it if asked to."""
    settings = TradeoffSettings(_cli_parse_args=True)
    test = read_images(settings.data).test
    with ExitStack() as stack:
        points: list[Point] = []
        reference = None
        for contender in settings.contenders:
            python = settings.pythons.get(contender.partition(":")[0])
            server, manifest = stack.enter_context(serve_contender(contender, python))
            client = stack.enter_context(Client(server.target, timeout_seconds=60))
            for effort in efforts_of(manifest):
                early_stop, most = effort.early_stop, effort.max_members
                classes, _ = classify(client, manifest.name, test, max_members=most, early_stop=early_stop)
                reference = classes if reference is None else reference
                right = float((classes == test.labels.numpy()).mean())
                load = load_of(server.target, manifest, test, effort, settings.seconds)
                points.append(Point(contender, effort, right, float((classes == reference).mean()), load))
        pool = stack.enter_context(callers(1))
        for _ in range(settings.rounds):
            for point in points:
                point.rates.append(drive(point.load, pool, 1).images_per_second())
    Console(width=120).print(tabulate(points))
    if settings.plot:
        settings.plot.parent.mkdir(parents=True, exist_ok=True)
        plot(points).savefig(settings.plot)


def efforts_of(manifest: Manifest) -> list[Effort]:
    """Those that ask fewer members than there are, or all."""
    return [effort for effort in EFFORTS if effort.max_members < len(manifest.members)]


def load_of(target: str, manifest: Manifest, test: Images, effort: Effort, seconds: float) -> Load:
    """Calls with some test images."""
    chosen = np.random.default_rng(0).choice(len(test), CALL_IMAGES, replace=False)
    pixels = test.pixels.numpy()[chosen]
    request = classify_request(pixels, manifest.name, max_members=effort.max_members, early_stop=effort.early_stop)
    return Load(target, request, CALL_IMAGES, CALLERS, seconds)


def tabulate(points: list[Point]) -> Table:
    """A row a point."""
    table = Table("server", "asked", "test", "agreement", "images/s", "range", "times the first")
    first = statistics.median(points[0].rates)
    for point in points:
        median = statistics.median(point.rates)
        table.add_row(
            point.server,
            point.effort.name,
            f"{point.accuracy:.2%}",
            f"{point.agreement:.2%}",
            f"{median:,.0f}",
            f"{min(point.rates):,.0f} to {max(point.rates):,.0f}",
            f"{median / first:.2f}",
        )
    return table


def plot(points: list[Point]) -> Figure:
    """Test error against the median of images a second, a colour a contender and a mark an effort."""
    figure = Figure(figsize=(8, 4.5), layout="constrained", dpi=110)
    axes = figure.subplots()
    for number, server in enumerate(dict.fromkeys(point.server for point in points)):
        mine = sorted(
            (statistics.median(point.rates), 100 * (1 - point.accuracy), MARKS[point.effort.name])
            for point in points
            if point.server == server
        )
        rates, errors = [rate for rate, _, _ in mine], [error for _, error, _ in mine]
        axes.plot(rates, errors, lw=1, color=f"C{number}", label=server)
        for rate, error, mark in mine:
            axes.plot(rate, error, mark, ms=7, color=f"C{number}")
    for effort, mark in MARKS.items():
        axes.plot([], [], mark, color="#8a8f98", label=effort)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set_xticks([500, 1000, 2000, 5000, 10_000])
    axes.set_xlabel("images a second, 2 callers with 32 images a call")
    axes.set_ylabel("test images read wrong, %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


if __name__ == "__main__":
    main()
