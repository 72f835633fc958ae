"""Images from arrays: the four IDX files of MNIST and its kin, or one NPZ file."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from training.dataset import Dataset, Images, divide, refuse
from training.errors import DataError
from training.idx import read_idx

IDX_NAMES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
NPZ_NAMES = {"train": ("x_train", "y_train"), "val": ("x_val", "y_val"), "test": ("x_test", "y_test")}

UNREADABLE = (
    *(OSError, ValueError, EOFError, RuntimeError, MemoryError),
    *(zipfile.BadZipFile, zlib.error, tokenize.TokenError),
)
"""What a damaged NPZ file makes numpy raise; one that promises more than there is memory for, MemoryError."""

Array = npt.NDArray[Any]


def load_idx(folder: Path) -> Dataset:
    """Read the four files of MNIST, or of a data set named after it, gzipped or not. Classes are numbers.

    Raises:
        DataError: Something is wrong with them; the message names all that is.
    """
    name = f"IDX files {folder.resolve().name!r}"
    problems: list[str] = []
    files = {part: [_read_or_note(folder, file, problems) for file in pair] for part, pair in IDX_NAMES.items()}
    arrays = {part: (one, other) for part, (one, other) in files.items() if one is not None and other is not None}
    return _build(name, arrays, None, problems)


def load_npz(path: Path) -> Dataset:
    """Read arrays x_train, y_train and, if there, x_val, y_val, x_test, y_test and class_labels from an NPZ file.

    Images are uint8 (count, height, width), (count, height, width, channels) or (count, channels, height, width);
    labels are whole numbers from 0.

    Raises:
        DataError: Something is wrong with them; the message names all that is.
    """
    expected = "expected an NPZ file with x_train and y_train, or a folder"
    try:
        if not zipfile.is_zipfile(path):
            raise DataError(f"{path} is no NPZ file; {expected}")
        with np.load(path, allow_pickle=False) as loaded:
            found = dict(loaded)
    except UNREADABLE as error:
        raise DataError(f"{path} is no readable NPZ file: {error}; {expected}") from error
    problems = [f"{name} is no array" for name, one in found.items() if not isinstance(one, np.ndarray)]
    found = {name: one for name, one in found.items() if isinstance(one, np.ndarray)}
    problems += [
        f"{one} is there, {other} is not"
        for names in NPZ_NAMES.values()
        for one, other in (names, names[::-1])
        if one in found and other not in found
    ]
    if "x_train" not in found and "y_train" not in found:
        problems.append(f"x_train and y_train are not there; found {', '.join(found) or 'nothing'}")
    arrays = {part: (found[x], found[y]) for part, (x, y) in NPZ_NAMES.items() if x in found and y in found}
    return _build(f"NPZ file {path.stem!r}", arrays, found.get("class_labels"), problems)


def _read_or_note(folder: Path, name: str, problems: list[str]) -> Array | None:
    """Read an IDX file, gzipped or not, or note what is wrong with it."""
    try:
        return read_idx(folder / name if (folder / name).exists() else folder / f"{name}.gz")
    except DataError as error:
        problems.append(str(error))
        return None


def _build(
    name: str, arrays: dict[str, tuple[Array, Array]], class_labels: Array | None, problems: list[str]
) -> Dataset:
    """Make a data set of arrays, each of which is judged alone before they are judged together.

    Raises:
        DataError: There were problems already, or there are now; the message names all of them.
    """
    pixels = {}
    for part, (images, labels) in arrays.items():
        found = _problems_of(images, labels)
        problems += [f"{part}: {problem}" for problem in found]
        if not found:
            pixels[part] = _as_nchw(images)
    shapes = {part: one.shape[1:] for part, one in pixels.items()}
    if len(set(shapes.values())) > 1:
        problems.append("the parts differ in channels, height, width: " + _listed(shapes))
    refuse(name, problems)
    classes, train_images = 1 + max(int(labels.max()) for _, labels in arrays.values()), len(pixels["train"])
    if classes > train_images:
        refuse(
            name, [f"labels go up to {classes - 1}, and there are {train_images} training images, not one each"]
        )
    names = _read_names(class_labels, classes, problems)
    parts = {
        part: Images(torch.tensor(pixels[part]), torch.tensor(labels.astype(np.int64)))
        for part, (_, labels) in arrays.items()
    }
    return divide(name, names, parts["train"], parts.get("val"), parts.get("test"), problems)


def _problems_of(images: Array, labels: Array) -> list[str]:
    problems = []
    if images.dtype != np.uint8:
        problems.append(f"images are {images.dtype}, expected uint8 values 0..255")
    if not (images.ndim == 3 or (images.ndim == 4 and (images.shape[3] in (1, 3) or images.shape[1] in (1, 3)))):
        problems.append(
            f"images have shape {images.shape}, expected (count, height, width), or 1 or 3 channels too"
        )
    elif 0 in images.shape[1:]:
        problems.append(f"images have shape {images.shape}, so no pixels")
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        problems.append(f"labels are {labels.dtype} {labels.shape}, expected whole numbers (count,)")
    elif images.ndim and len(labels) != len(images):
        problems.append(f"{len(images)} images came with {len(labels)} labels")
    elif len(labels) == 0:
        problems.append("there are no images")
    elif labels.min() < 0:
        problems.append(f"labels begin at {labels.min()}, expected 0 or more")
    return problems


def _read_names(class_labels: Array | None, classes: int, problems: list[str]) -> list[str]:
    """Names of the classes, numbers where there are none that can be used; notes what is wrong with them."""
    numbers = [str(label) for label in range(classes)]
    if class_labels is None:
        return numbers
    if class_labels.ndim != 1 or class_labels.dtype.kind not in "SUiuf":
        found = f"{class_labels.dtype} {class_labels.shape}"
        problems.append(f"class_labels are {found}, expected text or numbers (count,)")
        return numbers
    if len(class_labels) != classes:
        problems.append(f"class_labels has {len(class_labels)} names for {classes} classes")
        return numbers
    try:
        read = np.strings.decode(class_labels, "utf-8") if class_labels.dtype.kind == "S" else class_labels
        return [str(label) for label in read]
    except UnicodeDecodeError as error:
        problems.append(f"class_labels are no UTF-8 text: {error}")
        return numbers


def _as_nchw(images: Array) -> Array:
    if images.ndim == 3:
        return images[:, np.newaxis]
    return images.transpose(0, 3, 1, 2) if images.shape[3] in (1, 3) else images


def _listed(shapes: dict[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{part} {shape}" for part, shape in shapes.items())
