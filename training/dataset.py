"""Labelled images in memory, and how they are divided.

A data set is three parts of labelled images. `train` teaches, `held_out` is the fixed stratified part of the
training set on which everything is chosen, and `test` is looked at once, for the report.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from training.errors import DataError

SPLIT_SEED = 20170101
"""Seed of all splits: the same for every run, so that all runs are judged on the same images."""
MOST_SET_ASIDE_PER_CLASS = 500
"""Images, where a tenth of the class would be more."""
LEAST_TO_SPLIT = 10
"""A class needs that many images for a tenth of it to be set aside."""
MOST_PROBLEMS_SHOWN = 20
MOST_SAMPLED = 10_000
PLAIN_SAMPLE, PLAIN_DEVIATION, PLAIN_SHARE = 2000, 20.0, 0.9
"""Of so many images, the border must vary by less than so many of 256 levels, in so large a share of them."""


@dataclass(frozen=True)
class Images:
    """Labelled images, all of one shape.

    Attributes:
        pixels: uint8 (count, channels, height, width), 0..255.
        labels: int64 (count,), indices into the data set's class labels.
    """

    pixels: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.pixels.dtype != torch.uint8 or self.pixels.ndim != 4:
            raise DataError(
                f"images must be uint8 (count, channels, height, width), got {self.pixels.dtype} "
                f"{tuple(self.pixels.shape)}"
            )
        if self.labels.shape != (len(self.pixels),):
            raise DataError(f"{len(self.pixels)} images came with labels of shape {tuple(self.labels.shape)}")

    def __len__(self) -> int:
        return len(self.pixels)

    def select(self, indices: Tensor) -> Images:
        """The images and labels at `indices`: int64 (count,)."""
        return Images(self.pixels[indices], self.labels[indices])

    def on(self, device: torch.device) -> Images:
        """The same images on a device."""
        return Images(self.pixels.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Dataset:
    """The three parts of a data set, the names of its classes, and what it is called."""

    train: Images
    held_out: Images
    test: Images
    class_labels: tuple[str, ...]
    name: str

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image."""
        channels, height, width = self.train.pixels.shape[1:]
        return channels, height, width

    @property
    def train_sample(self) -> Images:
        """Training images, evenly spaced, to compare the others with: all, or a little under `MOST_SAMPLED`."""
        step = -(-len(self.train) // MOST_SAMPLED)
        return self.train.select(torch.arange(0, len(self.train), step))

    def describe_known(self) -> str:
        """How many test images are, pixel for pixel, among the others too, in a sentence; empty if none is."""
        others = {hash(image.tobytes()) for part in (self.train, self.held_out) for image in part.pixels.numpy()}
        known = sum(hash(image.tobytes()) in others for image in self.test.pixels.numpy())
        if not known:
            return ""
        return (
            f"{known:,} of the {len(self.test):,} test images are among the training or held-out images too, "
            "pixel for pixel: the figures on test images flatter."
        )

    def on(self, device: torch.device) -> Dataset:
        """The same, with the images that a member learns from and is judged by on a device."""
        return dataclasses.replace(self, train=self.train.on(device), held_out=self.held_out.on(device))

    def digest(self) -> str:
        """SHA-256 over all pixels and labels in order: tells whether two runs saw the same images.

        What the classes are called is no part of it.
        """
        sha256 = hashlib.sha256()
        for part in (self.train, self.held_out, self.test):
            sha256.update(part.pixels.numpy().tobytes())
            sha256.update(part.labels.numpy().tobytes())
        return sha256.hexdigest()


def divide(
    name: str,
    class_labels: Sequence[str],
    train: Images,
    held_out: Images | None,
    test: Images | None,
    problems: Sequence[str] = (),
) -> Dataset:
    """Complete a data set: what is not given is set aside from the training images, the test images first.

    Args:
        name: What the data set is called.
        class_labels: Names of the classes.
        train: Images to learn from.
        held_out: Images to choose by, or None.
        test: Images for the report, or None.
        problems: What is known to be wrong already.

    Raises:
        DataError: There is one class only, a part is empty or lacks a class, classes have too few images or labels
            that cannot be told apart or written down, or there were problems; the message names all of them.
    """
    splits = (held_out is None) + (test is None)
    least = LEAST_TO_SPLIT * splits if splits else 1
    counts = train.labels.bincount(minlength=len(class_labels)).tolist()
    found = [
        f"class {label!r} has {count} training images; at least {least} are needed"
        for label, count in zip(class_labels, counts, strict=True)
        if count < least
    ]
    if len(class_labels) < 2:
        found.append(f"there is one class only, {', '.join(class_labels)!r}; at least two are needed")
    found += _problems_of_labels(class_labels)
    for part, images in (("validation", held_out), ("test", test)):
        if images is not None:
            found += _problems_of_part(part, images, class_labels)
    refuse(name, [*problems, *found])
    if test is None:
        train, test = set_aside(train)
    if held_out is None:
        train, held_out = set_aside(train)
    return Dataset(train, held_out, test, tuple(class_labels), name)


def _problems_of_part(part: str, images: Images, class_labels: Sequence[str]) -> list[str]:
    if not len(images):
        return [f"there are no {part} images; leave that part out to have some set aside"]
    counts = images.labels.bincount(minlength=len(class_labels)).tolist()
    return [
        f"class {label!r} has no {part} images, so nothing would be known of it"
        for label, count in zip(class_labels, counts, strict=True)
        if not count
    ]


def _problems_of_labels(class_labels: Sequence[str]) -> list[str]:
    problems = []
    for label, count in Counter(class_labels).items():
        if not label:
            problems.append("a class label is empty; each class needs one")
        if count > 1:
            problems.append(f"class label {label!r} comes {count} times; each class needs one of its own")
        if label.encode("utf-8", "replace").decode() != label:
            problems.append(f"class label {label!r} is not UTF-8; rename that class")
    return problems


def set_aside(images: Images, most_per_class: int = MOST_SET_ASIDE_PER_CLASS) -> tuple[Images, Images]:
    """Set aside a tenth of every class, at most `most_per_class` images of it, the same ones each time.

    Returns:
        What is left and what was set aside, both in the order of `images`.
    """
    generator = torch.Generator().manual_seed(SPLIT_SEED)
    aside = torch.zeros(len(images), dtype=torch.bool)
    for label in sorted(set(images.labels.tolist())):
        members = (images.labels == label).nonzero().squeeze(1)
        count = min(most_per_class, len(members) // 10)
        aside[members[torch.randperm(len(members), generator=generator)[:count]]] = True
    return images.select((~aside).nonzero().squeeze(1)), images.select(aside.nonzero().squeeze(1))


def refuse(name: str, problems: Sequence[str]) -> None:
    """Raise one error that names all problems of a data set, if there are any.

    Raises:
        DataError: There are.
    """
    if not problems:
        return
    shown = [f"\n  - {problem}" for problem in problems[:MOST_PROBLEMS_SHOWN]]
    if len(problems) > MOST_PROBLEMS_SHOWN:
        shown.append(f"\n  and {len(problems) - MOST_PROBLEMS_SHOWN} more")
    raise DataError(f"{name} cannot be trained on:{''.join(shown)}")


def is_on_plain_ground(images: Images) -> bool:
    """Whether images show something on a plain ground: the border of nine in ten hardly varies."""
    sample = images.pixels[:: max(1, len(images) // PLAIN_SAMPLE)].float()
    rows, columns = sample[:, :, [0, -1], :].flatten(2), sample[:, :, :, [0, -1]].flatten(2)
    deviation = torch.cat([rows, columns], dim=2).std(dim=2).amax(dim=1)  # of the channel that varies most
    return (deviation < PLAIN_DEVIATION).float().mean().item() >= PLAIN_SHARE
