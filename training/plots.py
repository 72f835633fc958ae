"""Plots of a run, as matplotlib figures. None of them opens a window or touches matplotlib's global state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, SymmetricalLogLocator
from numpy.typing import NDArray
from torch import Tensor

from training.evaluation import reliability
from training.member import EpochMetrics

BLUE, ORANGE, GREY = "#2563a8", "#d9731a", "#8a8f98"
DPI = 110
LABEL_LETTERS = 16
MOST_LABELLED_CLASSES = 30


@dataclass(frozen=True)
class Measured:
    """A point of `plot_ladder`.

    Attributes:
        name: Of the rung.
        accuracy: On the test images, 0..1.
        interval: 95 % interval of the accuracy.
        reference: The lesson's accuracy, where it has one.
        reference_distorted: Whether that was measured on distorted images.
    """

    name: str
    accuracy: float
    interval: tuple[float, float]
    reference: float | None
    reference_distorted: bool


@dataclass(frozen=True)
class Picture:
    """An image with a few words above it.

    Attributes:
        pixels: uint8 (channels, height, width).
        caption: One or two short lines.
    """

    pixels: Tensor
    caption: str


def plot_ladder(rungs: Sequence[Measured]) -> Figure:
    """Test error of every rung with its interval, and the lesson's beside it; a logarithmic scale."""
    figure, axes = _single(9, 1.2 + 0.45 * len(rungs))
    rows = np.arange(len(rungs))
    errors = np.array([100 * (1 - rung.accuracy) for rung in rungs])
    low = errors - [100 * (1 - rung.interval[1]) for rung in rungs]
    high = [100 * (1 - rung.interval[0]) for rung in rungs] - errors
    axes.errorbar(errors, rows, xerr=[low, high], fmt="o", color=BLUE, capsize=3, label="here, with 95 % interval")
    for distorted, marker, label in (
        (False, "D", "the lesson"),
        (True, "s", "the lesson, on distorted test images"),
    ):
        points = [
            (100 * (1 - rung.reference), row)
            for row, rung in zip(rows, rungs, strict=True)
            if rung.reference is not None and rung.reference_distorted == distorted
        ]
        if points:
            axes.plot(*zip(*points, strict=True), marker, color=ORANGE, markerfacecolor="none", label=label)
    axes.set_yticks(rows, [rung.name for rung in rungs])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks([0.2, 0.5, 1, 2, 5, 10])
    axes.set_xlabel("test images read wrong")
    axes.grid(axis="x", color="#dddddd")
    axes.legend(frameon=False)
    return figure


def plot_curves(members: Sequence[Sequence[EpochMetrics]]) -> Figure:
    """Loss and error of every member over the epochs, while learning and on held-out images."""
    figure = Figure(figsize=(10, 3.8), layout="constrained", dpi=DPI)
    loss, error = figure.subplots(1, 2)
    for index, epochs in enumerate(members):
        numbers = [epoch.epoch for epoch in epochs]
        marker = "." if len(numbers) < 3 else ""
        labels = ("training images, while learning", "held-out images") if index == 0 else (None, None)
        train, held_out = ({"color": colour, "lw": 1, "marker": marker} for colour in (ORANGE, BLUE))
        loss.plot(numbers, [epoch.train_loss for epoch in epochs], **train, label=labels[0])
        loss.plot(numbers, [epoch.held_out_nll for epoch in epochs], **held_out, label=labels[1])
        error.plot(numbers, [100 * (1 - epoch.train_accuracy) for epoch in epochs], **train)
        error.plot(numbers, [100 * (1 - epoch.held_out_accuracy) for epoch in epochs], **held_out)
    loss.set_yscale("log")
    error.set_yscale("symlog", linthresh=0.1)  # which, unlike a logarithm, has a place for no error at all
    for axes, title in ((loss, "mean loss, nats"), (error, "wrong, %")):
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        _plain(axes)
    loss.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    error.yaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=0.1, subs=(1, 2, 5)))
    loss.legend(frameon=False, fontsize=8)
    return figure


def plot_confusion(counts: Tensor, class_labels: Sequence[str]) -> Figure:
    """How often images of each class (rows) are taken for each class (columns); int64 (classes, classes).

    Colour shows errors alone, so that a few of them are seen beside thousands that are right.
    """
    classes = len(class_labels)
    side = min(14.0, 3.4 + 0.42 * classes)
    figure, axes = _single(side, side)
    errors = counts.clone().fill_diagonal_(0).numpy()
    axes.imshow(errors, cmap="Oranges", vmin=0, vmax=max(1, errors.max()))
    if classes <= MOST_LABELLED_CLASSES:
        names = [shorten(label) for label in class_labels]
        axes.set_xticks(range(classes), names, rotation=0 if _all_short(names) else 90, parse_math=False)
        axes.set_yticks(range(classes), names, parse_math=False)
        for row, column in counts.nonzero().tolist():
            weight = "normal" if row == column else "bold"
            dark = errors[row, column] > errors.max() / 2 > 0
            axes.text(
                column,
                row,
                f"{counts[row, column]}",
                ha="center",
                va="center",
                fontsize=8,
                fontweight=weight,
                color="white" if dark else (GREY if row == column else "black"),
            )
    axes.set_xlabel("taken for")
    axes.set_ylabel("is")
    return figure


def plot_reliability(before: Tensor, after: Tensor, labels: Tensor, temperature: float) -> Figure:
    """Share right against confidence in 15 bins, before and after calibration; images a bin below."""
    figure = Figure(figsize=(5.2, 5), layout="constrained", dpi=DPI)
    axes, histogram = figure.subplots(2, 1, height_ratios=[3, 1], sharex=True)
    axes.plot([0, 1], [0, 1], color=GREY, lw=1, ls="--")
    offset = -0.006
    for name, probabilities, colour in (
        ("plain average", before, GREY),
        (f"at temperature {temperature:.2f}", after, BLUE),
    ):
        bins = reliability(probabilities, labels)
        filled = bins.count > 0
        axes.plot(bins.confidence[filled], bins.accuracy[filled], "o-", color=colour, label=name, ms=4, lw=1)
        centres = (np.arange(len(bins.count)) + 0.5) / len(bins.count)
        histogram.bar(centres + offset, bins.count, width=0.025, color=colour)
        offset = -offset
    axes.set_ylabel("share right")
    axes.legend(frameon=False)
    histogram.set_yscale("log")
    histogram.set_ylabel("images")
    histogram.set_xlabel("confidence in the top class")
    for one in (axes, histogram):
        _plain(one)
    return figure


def plot_pictures(pictures: Sequence[Picture], columns: int = 8) -> Figure:
    """A grid of images with captions."""
    rows = -(-len(pictures) // columns)
    figure = Figure(figsize=(1.25 * columns, 1.6 * rows), layout="constrained", dpi=DPI)
    for axes in figure.subplots(rows, columns, squeeze=False).flat:
        axes.axis("off")
    for axes, picture in zip(figure.axes, pictures, strict=False):
        _show(axes, picture.pixels)
        axes.set_title(picture.caption, fontsize=7, parse_math=False)
    return figure


def plot_augmentation(originals: Tensor, distorted: Tensor) -> Figure:
    """Images as they are on the left, and what members see of each.

    Args:
        originals: uint8 (images, channels, height, width).
        distorted: float32 (images, draws, channels, height, width), 0..255.
    """
    rows, draws = distorted.shape[:2]
    figure = Figure(figsize=(0.95 * (draws + 1), 1.0 * rows), layout="constrained", dpi=DPI)
    grid = figure.subplots(rows, draws + 1, squeeze=False)
    for row in range(rows):
        for column in range(draws + 1):
            grid[row, column].axis("off")
            _show(grid[row, column], originals[row] if column == 0 else distorted[row, column - 1])
    grid[0, 0].set_title("as it is", fontsize=8)
    grid[0, 1].set_title("as seen", fontsize=8)
    return figure


def plot_filters(members: Sequence[Tensor]) -> Figure:
    """The first layer's filters, a row a member, each on its own scale: float32 (filters, channels, h, w)."""
    columns = max(len(filters) for filters in members)
    figure = Figure(figsize=(max(4.0, 0.32 * columns), 0.42 * len(members)), layout="constrained", dpi=DPI)
    grid = figure.subplots(len(members), columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for number, filters in enumerate(members):
        for column, weights in enumerate(filters):
            limit = weights.abs().max().clamp_min(1e-9)
            if len(weights) == 3:
                grid[number, column].imshow(((weights / limit + 1) / 2).permute(1, 2, 0).numpy())
            else:
                grid[number, column].imshow((weights.mean(0) / limit).numpy(), cmap="RdBu_r", vmin=-1, vmax=1)
        grid[number, 0].set_title(f"{number + 1}", fontsize=7, x=-0.6, y=0.1)
    return figure


def _single(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained", dpi=DPI)
    axes = figure.subplots()
    _plain(axes)
    return figure, axes


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)


def _show(axes: Axes, pixels: Tensor) -> None:
    """Values 0..255 (channels, height, width); a grey image is shown as it is, not stretched to the full range."""
    image: NDArray[np.uint8] = pixels.to(torch.uint8).permute(1, 2, 0).numpy()
    if image.shape[2] == 1:
        axes.imshow(image[:, :, 0], cmap="gray", vmin=0, vmax=255)
    else:
        axes.imshow(image)


def shorten(label: str) -> str:
    """A class label that fits below a picture."""
    return label if len(label) <= LABEL_LETTERS else f"{label[: LABEL_LETTERS - 1]}\N{HORIZONTAL ELLIPSIS}"


def _all_short(labels: Sequence[str]) -> bool:
    return all(len(label) <= 2 for label in labels)
