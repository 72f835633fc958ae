"""The images that accuracies are measured on."""

from __future__ import annotations

from pathlib import Path

from export.manifest import Manifest
from training.dataset import Dataset
from training.errors import DataError
from training.sources import load_dataset

MNIST = Path("data/mnist")
"""Where MNIST is fetched to, if it is not there, as training does."""


def read_images(data: Path) -> Dataset:
    """The images at a path, or MNIST.

    Raises:
        SystemExit: There are none that can be read; says what is wrong.
    """
    try:
        return load_dataset(data, download_mnist=data == MNIST)
    except DataError as error:
        raise SystemExit(f"{data} has no images to measure on: {error}") from None


def read_images_of(manifest: Manifest, data: Path) -> Dataset:
    """The images at a path, which a bundle was trained on.

    Raises:
        SystemExit: They cannot be read, or are others.
    """
    dataset = read_images(data)
    if dataset.digest() != manifest.recipe["data_sha256"]:
        raise SystemExit(f"{dataset.name} are not the images that {manifest.name}/{manifest.version} learned from")
    return dataset
