"""How fast members learn: the lesson's way, and ours; one process with all cores, and a process for each core.

`python -m benchmarks.training` times training steps on random images of MNIST's size, so it needs no data. The
variants take turns, several times over, so that all of them meet the same noise of the machine.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Literal

import torch
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict
from rich.console import Console
from rich.table import Table

from training.command import CORES
from training.dataset import Dataset, Images
from training.learner import Learner, Plan, train_step
from training.recipes import find_recipe

EPOCH_IMAGES = 55_000
"""MNIST's training images but for those held out."""
TIMES = ("processes x threads", "images/s", "range", "s an epoch", "core s an epoch", "times")


class TrainingSettings(BaseSettings):
    """Time training steps of several recipes, precisions and divisions of the cores."""

    model_config = SettingsConfigDict(
        cli_prog_name="python -m benchmarks.training",
        use_attribute_docstrings=True,
        cli_kebab_case=True,
        cli_implicit_flags=True,
    )

    seconds: float = Field(4.0, gt=0)
    """Of every measurement."""
    rounds: int = Field(3, ge=1)
    """How often each variant is measured."""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """Of all variants but the lesson's own, which is float32; slow on processors without bfloat16."""
    compile: bool = False
    """Measure every variant compiled, too."""


@dataclass(frozen=True)
class Variant:
    """One way to train: a recipe, one of its members, a precision, how the cores are used, compiled or plain."""

    recipe: str
    member: int
    precision: torch.dtype
    processes: int
    threads: int
    compiled: bool

    @property
    def plan(self) -> Plan:
        """What the member is trained by."""
        return Plan(find_recipe(self.recipe), self.member, 1, self.precision, compiled=self.compiled)


@dataclass(frozen=True)
class Rate:
    """How fast a variant learns.

    Attributes:
        images_per_second: By the clock.
        core_seconds_an_image: Of processors at work, which other programs on the machine disturb less.
    """

    images_per_second: float
    core_seconds_an_image: float


def variants(precision: torch.dtype, *, also_compiled: bool) -> list[Variant]:
    """The lesson's network in float32 on all cores first: what the others are compared with."""
    ways = [(1, CORES), (CORES, 1)] if CORES > 1 else [(1, 1)]
    others = [
        (recipe, member, precision)
        for recipe in ("lesson", "default", "small")
        for member, _ in enumerate(find_recipe(recipe).architectures, 1)
    ]
    return [
        Variant(*what, processes, threads, compiled)
        for what in dict.fromkeys([("lesson", 1, torch.float32), *others])
        for processes, threads in ways
        for compiled in ((False, True) if also_compiled else (False,))
    ]


def main() -> None:
    """Print images a second and seconds an epoch of each variant, and how much faster than the first it is."""
    settings = TrainingSettings(_cli_parse_args=True)
    precision = {"float32": torch.float32, "bfloat16": torch.bfloat16}[settings.precision]
    measured_ones = variants(precision, also_compiled=settings.compile)
    rates: dict[Variant, list[Rate]] = {variant: [] for variant in measured_ones}
    for _ in range(settings.rounds):
        for variant, measured in rates.items():
            measured.append(measure_rate(variant, settings.seconds))
    base = statistics.median(one.images_per_second for one in next(iter(rates.values())))
    table = Table("recipe", "network", "precision", *TIMES)
    for variant, measured in rates.items():
        speeds = [one.images_per_second for one in measured]
        rate = statistics.median(speeds)
        core_seconds = statistics.median(one.core_seconds_an_image for one in measured)
        table.add_row(
            variant.recipe,
            variant.plan.architecture,
            str(variant.precision).removeprefix("torch.") + ", compiled" * variant.compiled,
            f"{variant.processes} x {variant.threads}",
            f"{rate:,.0f}",
            f"{min(speeds):,.0f} to {max(speeds):,.0f}",
            f"{EPOCH_IMAGES / rate:.1f}",
            f"{EPOCH_IMAGES * core_seconds:.1f}",
            f"{rate / base:.2f}",
        )
    Console(width=130).print(table)


def measure_rate(variant: Variant, seconds: float) -> Rate:
    """What all processes of a variant learn together."""
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe() for _ in range(variant.processes)]
    workers = [context.Process(target=work, args=(variant, seconds, far)) for _, far in pipes]
    for worker, (_, far) in zip(workers, pipes, strict=True):
        worker.start()
        far.close()  # so that a worker that dies is the end of its pipe
    for near, _ in pipes:
        near.recv()  # warm
    for near, _ in pipes:
        near.send("go")
    rates: list[Rate] = [near.recv() for near, _ in pipes]
    for worker in workers:
        worker.join()
    return Rate(
        sum(rate.images_per_second for rate in rates),
        statistics.mean(rate.core_seconds_an_image for rate in rates),
    )


def work(variant: Variant, seconds: float, connection: Connection) -> None:
    """One process: warm up, wait for the word, learn for a while, and tell images a second."""
    torch.set_num_threads(variant.threads)
    recipe = find_recipe(variant.recipe)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (recipe.batch_images, 1, 28, 28), generator=generator, dtype=torch.uint8)
    batch = Images(pixels, torch.arange(recipe.batch_images) % 10)
    dataset = Dataset(batch, batch, batch, tuple("0123456789"), "noise")
    learner = Learner(variant.plan, dataset)
    learner.network.train()
    for _ in range(3):
        train_step(learner, batch, recipe.learning_rate, generator)
    connection.send("warm")
    connection.recv()
    steps, started, worked = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - started < seconds:
        train_step(learner, batch, recipe.learning_rate, generator)
        steps += 1
    images = steps * recipe.batch_images
    connection.send(Rate(images / (time.perf_counter() - started), (time.process_time() - worked) / images))


if __name__ == "__main__":
    main()
