"""The parts of a run's report: what each says and shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from training.augmentation import distort, flip_some
from training.dataset import Dataset, Images
from training.diagnosis import diagnose
from training.evaluation import average, calibrate
from training.member import EpochMetrics
from training.plots import (
    Picture,
    plot_augmentation,
    plot_confusion,
    plot_curves,
    plot_filters,
    plot_pictures,
    plot_reliability,
    shorten,
)
from training.run import Run
from training.summary import Predictions, Summary

PICTURES = 24
MOST_CONFUSED = 5
PREVIEWED, DRAWS = 6, 9
MOST_VOTED, SHORT_VOTE = 4, 6


@dataclass(frozen=True)
class Section:
    """A part of the report.

    Attributes:
        name: Of the plot's PNG file.
        heading: Above it.
        paragraphs: Between heading and plot.
        plot: None where there is nothing to show.
    """

    name: str
    heading: str
    paragraphs: Sequence[str]
    plot: Figure | None


def make_sections(
    run: Run,
    dataset: Dataset,
    summary: Summary,
    predictions: Predictions,
    curves: Sequence[Sequence[EpochMetrics]],
) -> list[Section]:
    """All parts of a finished run's report, in order."""
    ensemble = average(predictions.test)
    calibrated = calibrate(ensemble, summary.ensemble.temperature)
    labels, test = dataset.class_labels, dataset.test
    confusion = _confusion(ensemble, test.labels, len(labels))
    return [
        Section("curves", "Learning", diagnose(curves, summary), plot_curves(curves)),
        Section(
            "confusion",
            "What is taken for what",
            ["Test images, by the average. Colour marks errors alone.", *_most_confused(confusion, labels)],
            plot_confusion(confusion, labels),
        ),
        Section(
            "reliability",
            "What its confidence is worth",
            [_describe_calibration(summary)],
            plot_reliability(ensemble, calibrated, test.labels, summary.ensemble.temperature),
        ),
        _errors(calibrated, test, labels),
        _disagreement(predictions.test, test, labels),
        Section(
            "augmentation",
            "What the members saw",
            ["Training images on the left, and as they were distorted while learning."],
            _preview_augmentation(run, dataset),
        ),
        _filters(run),
    ]


def _describe_calibration(summary: Summary) -> str:
    ensemble = summary.ensemble
    return (
        f"Expected calibration error on the test images: {ensemble.test_uncalibrated.ece:.4f} of the plain "
        f"average, {ensemble.test.ece:.4f} at the temperature fitted on held-out images."
    )


def _confusion(probabilities: Tensor, truth: Tensor, classes: int) -> Tensor:
    pairs = truth * classes + probabilities.argmax(dim=1)
    return pairs.bincount(minlength=classes**2).view(classes, classes)


def _most_confused(confusion: Tensor, labels: Sequence[str]) -> list[str]:
    """The most frequent errors in words, which have room for any name in any script; nothing if there are none."""
    errors = confusion.clone().fill_diagonal_(0).flatten()
    order = errors.argsort(descending=True, stable=True)[:MOST_CONFUSED].tolist()
    pairs = [(divmod(index, len(labels)), int(errors[index])) for index in order if errors[index]]
    said = [f"{labels[truth]} taken for {labels[taken]} ({count})" for (truth, taken), count in pairs]
    return [f"Most often: {'; '.join(said)}."] if said else []


def _errors(probabilities: Tensor, test: Images, labels: Sequence[str]) -> Section:
    confidence, top = probabilities.max(dim=1)
    truth, predicted = ([shorten(labels[index]) for index in indices.tolist()] for indices in (test.labels, top))
    wrong = (top != test.labels).nonzero().squeeze(1)
    worst = wrong[confidence[wrong].argsort(descending=True)][:PICTURES]
    pictures = [
        Picture(
            test.pixels[index],
            f"{truth[index]}\ntaken for\n{predicted[index]} {confidence[index]:.1%}",
        )
        for index in worst.tolist()
    ]
    said = f"Of {len(test):,} test images, {len(wrong):,} are read wrong"
    if not pictures:
        return Section("errors", "The most confident errors", [f"{said}."], None)
    shown = (
        f"; these {len(pictures)} most confidently." if len(pictures) < len(wrong) else ", most confident first."
    )
    return Section("errors", "The most confident errors", [said + shown], plot_pictures(pictures))


def _disagreement(members: Tensor, test: Images, labels: Sequence[str]) -> Section:
    votes = members.argmax(dim=2)  # (members, images)
    split = (votes != votes[0]).any(dim=0).nonzero().squeeze(1)
    heading, said = (
        "Where members disagree",
        f"The members do not all agree on {len(split):,} of {len(test):,} test images",
    )
    if not len(split):
        return Section("disagreement", heading, [f"{said}."], None)
    mutual_information = _entropy(average(members)) - _entropy(members).mean(dim=0)
    most = split[mutual_information[split].argsort(descending=True)][:PICTURES]
    pictures = [
        Picture(
            test.pixels[index],
            f"is {shorten(labels[int(test.labels[index])])}\n{_count_votes(votes[:, index], labels)}",
        )
        for index in most.tolist()
    ]
    return Section(
        "disagreement",
        heading,
        [f"{said}; most mutual information first. Above each, how they vote."],
        plot_pictures(pictures),
    )


def _count_votes(votes: Tensor, labels: Sequence[str]) -> str:
    counts = votes.bincount(minlength=len(labels))
    order = [index for index in counts.argsort(descending=True).tolist() if counts[index]]
    votes_of = [f"{counts[index]}x {shorten(labels[index])}" for index in order[:MOST_VOTED]]
    return ("\n" if max(map(len, votes_of)) > SHORT_VOTE else ", ").join(votes_of)


def _entropy(probabilities: Tensor) -> Tensor:
    entropy: Tensor = torch.special.entr(probabilities.double()).sum(dim=-1)
    return entropy


def _preview_augmentation(run: Run, dataset: Dataset) -> Figure:
    recipe = run.settings.recipe
    step = max(1, len(dataset.train) // PREVIEWED)
    originals = dataset.train.pixels[::step][:PREVIEWED]
    generator = torch.Generator().manual_seed(run.settings.seeds[0])
    rows = []
    for original, affine in zip(originals, cycle(recipe.affines), strict=False):
        distorted = distort(original.expand(DRAWS, *original.shape).float(), affine, generator)
        rows.append(flip_some(distorted, generator) if recipe.flip else distorted)
    return plot_augmentation(originals, torch.stack(rows))


def _filters(run: Run) -> Section:
    heading = "Filters of the first layer"
    first = [
        next((layer.weight.detach() for layer in network.modules() if isinstance(layer, nn.Conv2d)), None)
        for network, _ in run.load_members()
    ]
    filters = [weights for weights in first if weights is not None]
    if not filters:
        return Section("filters", heading, ["These members have no convolutions."], None)
    words = "A row a member, each filter on its own scale" + (
        ", as a picture of its three channels." if filters[0].shape[1] == 3 else "; red adds, blue takes away."
    )
    return Section(
        "filters",
        heading,
        [words],
        plot_filters(filters),
    )
