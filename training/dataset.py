"""Labelled images in memory, and the held-out split.

A data set is three parts of labelled images. `train` teaches, `held_out` is the fixed stratified part of the
training set on which everything is chosen, and `test` is looked at once, for the report.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from training.errors import DataError

SPLIT_SEED = 20170101
"""Seed of the held-out split: the same for every run, so that all runs are judged on the same images."""


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


@dataclass(frozen=True)
class Dataset:
    """The three parts of a data set and the names of its classes."""

    train: Images
    held_out: Images
    test: Images
    class_labels: tuple[str, ...]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image."""
        channels, height, width = self.train.pixels.shape[1:]
        return channels, height, width

    def digest(self) -> str:
        """SHA-256 over all pixels and labels in order: tells whether two runs saw the same data."""
        sha256 = hashlib.sha256()
        for part in (self.train, self.held_out, self.test):
            sha256.update(part.pixels.numpy().tobytes())
            sha256.update(part.labels.numpy().tobytes())
        return sha256.hexdigest()


def split_held_out(images: Images, most_per_class: int) -> tuple[Images, Images]:
    """Set aside a tenth of every class, at most `most_per_class` images of it, the same ones each time.

    Args:
        images: The whole training set.
        most_per_class: How many images of a large class to keep back.

    Returns:
        The part to train on and the held-out part, both in the order of `images`.

    Raises:
        DataError: A class has fewer than ten images.
    """
    generator = torch.Generator().manual_seed(SPLIT_SEED)
    held_out = torch.zeros(len(images), dtype=torch.bool)
    for label in sorted(set(images.labels.tolist())):
        members = (images.labels == label).nonzero().squeeze(1)
        if len(members) < 10:
            raise DataError(f"class {label} has {len(members)} training images; at least 10 are needed")
        kept_back = min(most_per_class, len(members) // 10)
        held_out[members[torch.randperm(len(members), generator=generator)[:kept_back]]] = True
    return images.select((~held_out).nonzero().squeeze(1)), images.select(held_out.nonzero().squeeze(1))
