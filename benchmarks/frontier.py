"""Accuracy against cost for ensembles of fewer members: `python -m benchmarks.frontier RUN...`.

Takes finished runs and averages, from the predictions that they keep, the first members of each and the cheapest
members of each, one to all. Runs of the same recipe are repetitions with other seeds: their mean and range are
given. Nothing is chosen by these figures; they let an operator see what a cheaper ensemble costs in accuracy.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from matplotlib.figure import Figure
from pydantic_settings import BaseSettings, CliPositionalArg, SettingsConfigDict
from rich.console import Console
from rich.table import Table

from training.evaluation import average, measure
from training.member import read_metrics
from training.run import PREDICTIONS_FILE, Run
from training.sources import load_dataset
from training.summary import Predictions


class FrontierSettings(BaseSettings):
    """Print and plot accuracy against multiply-adds for parts of finished ensembles."""

    model_config = SettingsConfigDict(
        cli_prog_name="python -m benchmarks.frontier",
        use_attribute_docstrings=True,
        cli_kebab_case=True,
        cli_hide_none_type=True,
    )

    runs: CliPositionalArg[list[Path]]
    """Folders that python -m training.fit has finished."""
    plot: Path | None = None
    """PNG file to write."""


@dataclass(frozen=True)
class Part:
    """Some members of one run.

    Attributes:
        recipe: Of the run.
        members: Their numbers, from 1.
        networks: What they are, in words.
        multiply_adds: Of all of them, for one image.
        core_minutes: One core would have trained them in.
        held_out: Accuracy of their average on the held-out images.
        test: Accuracy of their average on the test images.
    """

    recipe: str
    members: tuple[int, ...]
    networks: str
    multiply_adds: int
    core_minutes: float
    held_out: float
    test: float


def main() -> None:
    """Print the table, and plot it if asked to."""
    settings = FrontierSettings(_cli_parse_args=True)
    parts = sorted(
        (part for run in settings.runs for part in parts_of(Run.open(run))),
        key=lambda part: (part.multiply_adds, part.recipe, part.members),
    )
    groups = [list(group) for _, group in groupby(parts, key=lambda part: (part.recipe, part.members))]
    table = Table("ensemble", "recipe", "multiply-adds", "core minutes", "runs", "held-out", "test", "test, range")
    for group in groups:
        first, tests = group[0], [part.test for part in group]
        table.add_row(
            first.networks,
            first.recipe,
            f"{first.multiply_adds / 1e6:.1f} M",
            f"{statistics.mean(part.core_minutes for part in group):.1f}",
            str(len(group)),
            f"{statistics.mean(part.held_out for part in group):.3%}",
            f"{statistics.mean(tests):.3%}",
            f"{min(tests):.2%} to {max(tests):.2%}",
        )
    Console(width=140).print(table)
    if settings.plot:
        settings.plot.parent.mkdir(parents=True, exist_ok=True)
        plot(groups).savefig(settings.plot)


def parts_of(run: Run) -> Iterator[Part]:
    """The first k and the cheapest k members, for every k; each set once."""
    dataset = load_dataset(run.settings.data_path, run.settings.image_side)
    run.require_same(dataset)
    summary, predictions = run.read_summary(), Predictions.load(run.folder / PREDICTIONS_FILE)
    seconds = [
        sum(epoch.seconds for epoch in read_metrics(run.member_folder(member))) * run.settings.threads
        for member in run.settings.members
    ]
    cheapest = sorted(run.settings.members, key=lambda member: summary.members[member - 1].multiply_adds)
    for members in sorted({tuple(sorted(order[:k])) for order in (run.settings.members, cheapest) for k in order}):
        index = [member - 1 for member in members]
        names = [summary.members[i].architecture for i in index]
        yield Part(
            recipe=run.settings.recipe.name,
            members=members,
            networks=" + ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(names)),
            multiply_adds=sum(summary.members[i].multiply_adds for i in index),
            core_minutes=sum(seconds[i] for i in index) / 60,
            held_out=measure(average(predictions.held_out[index]), dataset.held_out.labels).accuracy,
            test=measure(average(predictions.test[index]), dataset.test.labels).accuracy,
        )


def plot(groups: list[list[Part]]) -> Figure:
    """Mean test error and its range over the runs, against multiply-adds."""
    figure = Figure(figsize=(8, 4.5), layout="constrained", dpi=110)
    axes = figure.subplots()
    for number, recipe in enumerate(dict.fromkeys(group[0].recipe for group in groups)):
        mine = [group for group in groups if group[0].recipe == recipe]
        cost = [group[0].multiply_adds / 1e6 for group in mine]
        errors = [[100 * (1 - part.test) for part in group] for group in mine]
        mean = [statistics.mean(group) for group in errors]
        low = [middle - min(group) for middle, group in zip(mean, errors, strict=True)]
        high = [max(group) - middle for middle, group in zip(mean, errors, strict=True)]
        axes.errorbar(cost, mean, yerr=[low, high], fmt="o", capsize=3, color=f"C{number}", label=recipe)
    axes.axhline(0.31, color="#8a8f98", lw=1, ls="--", label="the lesson's six")
    axes.set_xscale("log")
    axes.set_xlabel("million multiply-adds an image, all members")
    axes.set_ylabel("test images read wrong, %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


if __name__ == "__main__":
    main()
