"""Finding out what lies at a path, and reading it as a data set."""

from __future__ import annotations

from pathlib import Path

from training import mnist
from training.arrays import IDX_NAMES, load_idx, load_npz
from training.dataset import Dataset
from training.errors import DataError
from training.folder import load_folder


def load_dataset(path: Path, side: int | None = None, download_mnist: bool = False) -> Dataset:
    """Read the images at a path: an NPZ file, a folder of IDX files, or a folder with one subfolder a class.

    Args:
        path: Where they are.
        side: Height and width in pixels that image files are resized to; arrays keep theirs.
        download_mnist: Whether to fetch MNIST into a folder that is empty or not there, or that lacks some of its
            files.

    Raises:
        DataError: There is nothing that can be trained on; the message names all that is wrong.
    """
    if download_mnist and (_is_empty(path) or _holds_idx(path)):
        mnist.fetch(path)
    if path.is_file():
        _require_no_side(path, side)
        return load_npz(path)
    if _is_empty(path):
        raise DataError(
            f"there are no images at {path}; put them there, or begin a run with --download-mnist to fetch MNIST"
        )
    if _holds_idx(path):
        _require_no_side(path, side)
        return load_idx(path)
    return load_folder(path, side)


def _is_empty(folder: Path) -> bool:
    return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))


def _holds_idx(folder: Path) -> bool:
    names = {name for pair in IDX_NAMES.values() for name in pair}
    return folder.is_dir() and any(path.name.startswith(tuple(names)) for path in folder.iterdir())


def _require_no_side(path: Path, side: int | None) -> None:
    if side is not None:
        raise DataError(f"{path} holds arrays, which keep their size; leave out --image-side")
