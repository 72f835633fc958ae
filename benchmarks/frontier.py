"""Accuracy against cost for ensembles of fewer members: `python -m benchmarks.frontier RUN_OR_BUNDLE...`.

Takes finished runs, with the predictions that they keep, or bundles, which it runs. Averages the first members of
each and the cheapest members of each, one to all. Those of the same recipe are repetitions with other seeds, of
which mean and range are given. Nothing is chosen by these figures; they let an operator see what a cheaper
ensemble costs in accuracy.
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
from torch import Tensor

from benchmarks.images import MNIST, read_images_of
from export.manifest import MANIFEST_FILE, read_manifest
from export.quantization import predict
from training.dataset import Dataset
from training.evaluation import average, measure
from training.member import read_metrics
from training.run import PREDICTIONS_FILE, Run
from training.sources import load_dataset
from training.summary import Predictions


class FrontierSettings(BaseSettings):
    """Print and plot accuracy against multiply-adds for parts of finished ensembles."""

    model_config = SettingsConfigDict(
        env_prefix="CONSORT_",
        cli_prog_name="python -m benchmarks.frontier",
        use_attribute_docstrings=True,
        cli_kebab_case=True,
        cli_hide_none_type=True,
    )

    ensembles: CliPositionalArg[list[Path]]
    """Folders that python -m training.fit has finished, or bundles: <models>/<name>/<version>."""
    data: Path = MNIST
    """Images that bundles were trained on; runs know theirs."""
    plot: Path | None = None
    """PNG file to write."""


@dataclass(frozen=True)
class Member:
    """One trained member.

    Attributes:
        architecture: Its network.
        multiply_adds: For one image.
        core_minutes: One core would have trained it in; None where that is not on record.
    """

    architecture: str
    multiply_adds: int
    core_minutes: float | None


@dataclass(frozen=True)
class Ensemble:
    """What is known of a run, or of a bundle.

    Attributes:
        recipe: That it was trained by.
        members: In order.
        held_out: What they say of the held-out images: float32 (members, count, classes).
        test: What they say of the test images, likewise.
        dataset: Where the labels are.
    """

    recipe: str
    members: tuple[Member, ...]
    held_out: Tensor
    test: Tensor
    dataset: Dataset


@dataclass(frozen=True)
class Part:
    """Some members of one ensemble.

    Attributes:
        recipe: Of the ensemble.
        members: Their numbers, from 1.
        networks: What they are, in words.
        multiply_adds: Of all of them, for one image.
        core_minutes: One core would have trained them in; None where that is not on record.
        held_out: Accuracy of their average on the held-out images.
        test: Accuracy of their average on the test images.
    """

    recipe: str
    members: tuple[int, ...]
    networks: str
    multiply_adds: int
    core_minutes: float | None
    held_out: float
    test: float


def main() -> None:
    """Print the table, and plot it if asked to."""
    settings = FrontierSettings(_cli_parse_args=True)
    parts = sorted(
        (part for folder in settings.ensembles for part in parts_of(read_ensemble(folder, settings.data))),
        key=lambda part: (part.multiply_adds, part.recipe, part.members),
    )
    groups = [list(group) for _, group in groupby(parts, key=lambda part: (part.recipe, part.members))]
    table = Table("ensemble", "recipe", "multiply-adds", "core minutes", "runs", "held-out", "test", "test, range")
    for group in groups:
        first, tests = group[0], [part.test for part in group]
        minutes = [part.core_minutes for part in group if part.core_minutes is not None]
        table.add_row(
            first.networks,
            first.recipe,
            f"{first.multiply_adds / 1e6:.1f} M",
            f"{statistics.mean(minutes):.1f}" if minutes else "",
            str(len(group)),
            f"{statistics.mean(part.held_out for part in group):.3%}",
            f"{statistics.mean(tests):.3%}",
            f"{min(tests):.2%} to {max(tests):.2%}",
        )
    Console(width=140).print(table)
    if settings.plot:
        settings.plot.parent.mkdir(parents=True, exist_ok=True)
        plot(groups).savefig(settings.plot)


def read_ensemble(folder: Path, data: Path) -> Ensemble:
    """A bundle, whose members then run over the images at `data`, or a finished run."""
    return read_bundle(folder, data) if (folder / MANIFEST_FILE).exists() else read_run(Run.open(folder))


def read_bundle(folder: Path, data: Path) -> Ensemble:
    """Ask a bundle's members."""
    manifest = read_manifest(folder)
    dataset = read_images_of(manifest, data)
    graphs = [folder / member.file for member in manifest.members]
    members = tuple(Member(member.architecture, member.multiply_adds, None) for member in manifest.members)
    held_out, test = (predict(graphs, images) for images in (dataset.held_out, dataset.test))
    return Ensemble(manifest.recipe["name"], members, held_out, test, dataset)


def read_run(run: Run) -> Ensemble:
    """Take a run's predictions."""
    dataset = load_dataset(run.settings.data_path, run.settings.image_side)
    run.require_same(dataset)
    predictions = Predictions.load(run.folder / PREDICTIONS_FILE)
    members = tuple(
        Member(summary.architecture, summary.multiply_adds, core_minutes(run, number))
        for number, summary in enumerate(run.read_summary().members, 1)
    )
    return Ensemble(run.settings.recipe.name, members, predictions.held_out, predictions.test, dataset)


def core_minutes(run: Run, member: int) -> float:
    """What one core would have trained a member in."""
    return sum(epoch.seconds for epoch in read_metrics(run.member_folder(member))) * run.settings.threads / 60


def parts_of(ensemble: Ensemble) -> Iterator[Part]:
    """The first k and the cheapest k members, for every k; each set once."""
    numbers = range(1, len(ensemble.members) + 1)
    cheapest = sorted(numbers, key=lambda number: ensemble.members[number - 1].multiply_adds)
    for chosen in sorted({tuple(sorted(order[:k])) for order in (numbers, cheapest) for k in numbers}):
        index = [number - 1 for number in chosen]
        members = [ensemble.members[i] for i in index]
        names = [member.architecture for member in members]
        minutes = [member.core_minutes for member in members if member.core_minutes is not None]
        yield Part(
            recipe=ensemble.recipe,
            members=chosen,
            networks=" + ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(names)),
            multiply_adds=sum(member.multiply_adds for member in members),
            core_minutes=sum(minutes) if minutes else None,
            held_out=measure(average(ensemble.held_out[index]), ensemble.dataset.held_out.labels).accuracy,
            test=measure(average(ensemble.test[index]), ensemble.dataset.test.labels).accuracy,
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
