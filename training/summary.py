"""What the members of a run predict, and how good they and their average are."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from pydantic import BaseModel
from rich.table import Table
from torch import Tensor

from training.architectures import Network, count_multiply_adds, count_parameters
from training.checkpoint import CheckpointHeader, load_tensors, save_tensors
from training.dataset import Dataset
from training.errors import CheckpointError
from training.evaluation import Figures, agreement, average, calibrate, fit_temperature, measure, predict

Members = Sequence[tuple[Network, CheckpointHeader]]


class MemberSummary(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """How good one member is."""

    architecture: str
    seed: int
    parameters: int
    multiply_adds: int
    train: Figures
    """On a sample of the training images as they are: no distortion, no dropout."""
    held_out: Figures
    test: Figures


class EnsembleSummary(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """How good the members' average is."""

    temperature: float
    """Fitted on the held-out images after averaging."""
    train: Figures
    """Of the calibrated average, on a sample of the training images."""
    held_out: Figures
    """Of the calibrated average."""
    test: Figures
    """Of the calibrated average."""
    held_out_uncalibrated: Figures
    """Of the plain average."""
    test_uncalibrated: Figures
    """Of the plain average."""
    test_agreement: float
    """Share of members whose top class is the ensemble's, mean over the test images."""


class Summary(BaseModel, frozen=True, extra="forbid"):
    """How good a run's members and their average are."""

    members: tuple[MemberSummary, ...]
    ensemble: EnsembleSummary


@dataclass(frozen=True)
class Predictions:
    """Probabilities of every member for every image looked at, each float32 (members, count, classes).

    Attributes:
        train: For `Dataset.train_sample`.
        held_out: For the held-out images.
        test: For the test images.
    """

    train: Tensor
    held_out: Tensor
    test: Tensor

    @classmethod
    def of(cls, members: Members, dataset: Dataset) -> Self:
        """Run all members over the images. This is where, once, the test images are looked at."""
        parts = (dataset.train_sample, dataset.held_out, dataset.test)
        return cls(*(torch.stack([predict(network, images) for network, _ in members]) for images in parts))

    def save(self, path: Path) -> None:
        """Write all three into one safetensors file."""
        save_tensors(path, vars(self), {})

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            CheckpointError: The file is missing or damaged.
        """
        tensors, _ = load_tensors(path)
        try:
            return cls(**tensors)
        except TypeError as error:
            raise CheckpointError(f"{path} does not hold predictions: {error}") from error


def summarize(members: Members, predictions: Predictions, dataset: Dataset) -> Summary:
    """Measure each member and their average."""
    labels = {
        "train": dataset.train_sample.labels,
        "held_out": dataset.held_out.labels,
        "test": dataset.test.labels,
    }
    parts: dict[str, Tensor] = vars(predictions)

    def measure_member(index: int) -> dict[str, Figures]:
        return {part: measure(parts[part][index], labels[part]) for part in labels}

    averages = {part: average(parts[part]) for part in labels}
    temperature = fit_temperature(averages["held_out"], labels["held_out"])
    return Summary(
        members=tuple(
            MemberSummary(
                architecture=header.architecture,
                seed=header.seed,
                parameters=count_parameters(network),
                multiply_adds=count_multiply_adds(network, header.image_shape),
                **measure_member(index),
            )
            for index, (network, header) in enumerate(members)
        ),
        ensemble=EnsembleSummary(
            temperature=temperature,
            **{part: measure(calibrate(averages[part], temperature), labels[part]) for part in labels},
            held_out_uncalibrated=measure(averages["held_out"], labels["held_out"]),
            test_uncalibrated=measure(averages["test"], labels["test"]),
            test_agreement=agreement(predictions.test).mean().item(),
        ),
    )


def summary_table(summary: Summary) -> Table:
    """Each member and the ensemble, a row each."""
    table = Table(title="Test images looked at once; held-out images chose the rest", title_justify="left")
    for heading in ("", "held-out", "test", "95 % interval", "NLL", "ECE"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)

    def add(name: str, held_out: Figures, test: Figures) -> None:
        low, high = test.accuracy_interval
        interval = f"{100 * low:.2f} to {100 * high:.2f}"
        row = (f"{held_out.accuracy:.2%}", f"{test.accuracy:.2%}", interval, f"{test.nll:.4f}", f"{test.ece:.4f}")
        table.add_row(name, *row)

    for index, member in enumerate(summary.members, start=1):
        add(f"member {index}", member.held_out, member.test)
    ensemble = summary.ensemble
    table.add_section()
    held_out, test = (
        [getattr(member, part).accuracy for member in summary.members] for part in ("held_out", "test")
    )
    table.add_row("mean member", f"{statistics.mean(held_out):.2%}", f"{statistics.mean(test):.2%}")
    if len(test) > 1:
        spread = [f"{100 * statistics.stdev(accuracies):.2f}" for accuracies in (held_out, test)]
        table.add_row("standard deviation, points", *spread)
    add("average", ensemble.held_out_uncalibrated, ensemble.test_uncalibrated)
    add(f"at temperature {ensemble.temperature:.2f}", ensemble.held_out, ensemble.test)
    table.caption = f"{ensemble.test_agreement:.2%} of the members' votes on test images agree with the average's"
    table.caption_justify = "left"
    return table
