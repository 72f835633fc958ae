"""A tiny stand-in for MNIST that the tests make themselves: the example strokes, shifted and thickened."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt

from examples.draw_digits import draw
from training.idx import UINT8_CODE

SIDE = 28


def draw_digits(count: int, seed: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """`count` light-on-dark digits, classes in turn: uint8 (count, 28, 28) and labels uint8 (count,)."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 10
    images = np.zeros((count, SIDE, SIDE), np.uint8)
    for index, label in enumerate(labels):
        drawn = np.asarray(draw(int(label), SIDE, generator.uniform(0.06, 0.12), ink=255, ground=0))
        images[index] = np.roll(drawn, generator.integers(-2, 3, size=2), axis=(0, 1))
    return images, labels.astype(np.uint8)


def write_idx(path: Path, values: npt.NDArray[np.uint8]) -> None:
    """Write unsigned bytes as a gzipped IDX file."""
    header = struct.pack(f">BBBB{values.ndim}I", 0, 0, UINT8_CODE, values.ndim, *values.shape)
    path.write_bytes(gzip.compress(header + values.tobytes(), compresslevel=1))


def write_digits(folder: Path, train: int, test: int) -> Path:
    """Write drawn digits under the names of the four MNIST files."""
    folder.mkdir(parents=True, exist_ok=True)
    for prefix, count, seed in (("train", train, 1), ("t10k", test, 2)):
        images, labels = draw_digits(count, seed)
        write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", images)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", labels)
    return folder
