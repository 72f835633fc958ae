"""How good a bundle's members and their average are: `python -m benchmarks.figures BUNDLE`.

Runs every member with onnxruntime over the held-out and the test images, and compares the average with what the
manifest states. Needs no server and no training.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic_settings import BaseSettings, CliPositionalArg, SettingsConfigDict
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.images import MNIST, read_images_of
from export.manifest import read_manifest
from export.quantization import predict
from training.evaluation import Figures, agreement, average, calibrate, measure


class FiguresSettings(BaseSettings):
    """Measure the members of a bundle and their average on held-out and on test images."""

    model_config = SettingsConfigDict(
        env_prefix="CONSORT_",
        cli_prog_name="python -m benchmarks.figures",
        use_attribute_docstrings=True,
        cli_kebab_case=True,
    )

    bundle: CliPositionalArg[Path]
    """Folder <models>/<name>/<version>."""
    data: Path = MNIST
    """Images that the model was trained on: a folder of the four MNIST files, say."""


def main() -> int:
    """Print a row a member, their mean, and the average; 0 if the manifest states the same accuracies."""
    settings = FiguresSettings(_cli_parse_args=True)
    manifest = read_manifest(settings.bundle)
    dataset = read_images_of(manifest, settings.data)
    graphs = [settings.bundle / member.file for member in manifest.members]
    held_out, test = (Part(predict(graphs, images), images.labels) for images in (dataset.held_out, dataset.test))
    table = Table("", "held-out", "test", "test, 95 %", "test, NLL", "test, ECE")
    for number, member in enumerate(manifest.members):
        _add_row(
            table,
            f"member {number + 1}, {member.architecture}",
            held_out.of_member(number),
            test.of_member(number),
        )
    _add_mean_row(table, *([part.of_member(number) for number in range(len(graphs))] for part in (held_out, test)))
    _add_row(table, f"average of {len(graphs)}", held_out.of_average(), test.of_average())
    temperature = manifest.averaging.temperature
    served = held_out.of_average(temperature), test.of_average(temperature)
    _add_row(table, f"at temperature {temperature:.3f}", *served)
    Console(width=120).print(table)
    for name, part, figures in zip(("held-out", "test"), (held_out, test), served, strict=True):
        print(f"{name}: {part.describe()}; at the temperature NLL {figures.nll:.5f}, ECE {figures.ece:.4f}")
    stated = [manifest.held_out.accuracy, manifest.test.accuracy]
    print(f"the manifest states {stated[0]:.2%} and {stated[1]:.2%}")
    return 0 if stated == [figures.accuracy for figures in served] else 1


@dataclass(frozen=True)
class Part:
    """What the members say of images that nothing was learned from.

    Attributes:
        predicted: float32 (members, count, classes).
        labels: int64 (count,).
    """

    predicted: Tensor
    labels: Tensor

    def of_member(self, index: int) -> Figures:
        """How good one member is, counted from 0."""
        return measure(self.predicted[index], self.labels)

    def of_average(self, temperature: float = 1.0) -> Figures:
        """How good their average is."""
        averaged = average(self.predicted)
        return measure(averaged if temperature == 1 else calibrate(averaged, temperature), self.labels)

    def describe(self) -> str:
        """What stands in no column of the table."""
        plain, wrong = self.of_average(), self.predicted.argmax(dim=2) != self.labels
        return (
            f"{round(plain.count * (1 - plain.accuracy))} of {plain.count:,} read wrong, "
            f"{int(wrong.all(dim=0).sum())} of them by every member; "
            f"agreement {agreement(self.predicted).mean():.3%}; NLL {plain.nll:.5f}, ECE {plain.ece:.4f}"
        )


def _add_row(table: Table, title: str, held_out: Figures, test: Figures) -> None:
    low, high = test.accuracy_interval
    interval = f"{low:.2%} to {high:.2%}"
    accuracies = f"{held_out.accuracy:.2%}", f"{test.accuracy:.2%}"
    table.add_row(title, *accuracies, interval, f"{test.nll:.4f}", f"{test.ece:.4f}")


def _add_mean_row(table: Table, held_out: Sequence[Figures], test: Sequence[Figures]) -> None:
    accuracies = ([one.accuracy for one in part] for part in (held_out, test))
    spread = (f"{statistics.mean(part):.2%} ({100 * statistics.stdev(part):.2f})" for part in accuracies)
    rest = (statistics.mean(values) for values in ([one.nll for one in test], [one.ece for one in test]))
    table.add_row("mean member", *spread, "", *(f"{value:.4f}" for value in rest))


if __name__ == "__main__":
    sys.exit(main())
