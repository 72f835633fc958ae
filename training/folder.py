"""Images from a folder with one subfolder a class, as people keep them.

    flowers/rose/1.jpg                            or, already divided (val and test may be absent):
    flowers/tulip/2.png                           flowers/train/rose/1.jpg  flowers/test/rose/3.jpg

Files may be PNG, JPEG, WebP or BMP, grey or in colour, of any sizes. Names that begin with a dot are passed over;
everything else has to be an image that can be read, in one of these places, or nothing is trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from imaging.files import ImageError, is_grey, open_image, read_image, shown_size
from training.dataset import Dataset, Images, divide, refuse

MAX_IMAGE_PIXELS = 100_000_000
DEFAULT_SIDE = 32
LARGEST_KEPT_SIDE = 64
PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class _Header:
    """What a file's header shows."""

    path: Path
    label: str
    size: tuple[int, int]
    grey: bool


def load_folder(folder: Path, side: int | None) -> Dataset:
    """Read every image below a folder, all fitted to one shape.

    Args:
        folder: Of classes, or of `train`, `val` and `test` with classes below.
        side: Height and width in pixels. By default the images' own size, where all have the same and no side is
            longer than 64, and else 32.

    Returns:
        Grey images where no pixel has a colour, and else colour images. Parts that are absent are set aside from
        the training images.

    Raises:
        DataError: Something is wrong with the folder; the message names all that is.
    """
    problems: list[str] = []
    divided = (folder / "train").is_dir()
    parts = {part: folder / part for part in PARTS if (folder / part).is_dir()} if divided else {"train": folder}
    if divided:
        strays = [path for path in _visible(folder) if path not in parts.values()]
        problems += [f"{path} lies beside train, where only folders val and test are expected" for path in strays]
    headers = {part: _read_headers(place, problems) for part, place in parts.items()}
    classes = sorted({header.label for header in headers["train"]}, key=_by_number_then_name)
    for part, found in headers.items():
        unknown = sorted({header.label for header in found} - set(classes))
        problems += [f"{part} has a class {label!r} that train has not" for label in unknown]
    if not classes:
        refuse(str(folder), [*problems, "there is no class folder with images"])
    known = {part: [header for header in found if header.label in classes] for part, found in headers.items()}
    shape = _choose_shape([header for found in known.values() for header in found], side)
    read = {part: _read_images(found, classes, shape, problems) for part, found in known.items()}
    if all(_has_no_colour(images) for images in read.values()):
        read = {part: Images(images.pixels[:, :1], images.labels) for part, images in read.items()}
    name = f"image folder {folder.resolve().name!r}"
    return divide(name, classes, read["train"], read.get("val"), read.get("test"), problems)


def _read_headers(folder: Path, problems: list[str]) -> list[_Header]:
    headers = []
    for class_folder in _visible(folder):
        if not class_folder.is_dir():
            problems.append(f"{class_folder} lies outside the class folders")
            continue
        files = _visible(class_folder)
        if not files:
            problems.append(f"{class_folder} has no images")
        for path in files:
            try:
                image = open_image(path.read_bytes(), MAX_IMAGE_PIXELS)
                headers.append(_Header(path, class_folder.name, shown_size(image), is_grey(image)))
            except ImageError as error:
                problems.append(f"{path} is {error}")
            except OSError as error:
                problems.append(f"{path} cannot be read: {error.strerror}")
    return headers


def _read_images(
    headers: list[_Header], classes: list[str], shape: tuple[int, int, int], problems: list[str]
) -> Images:
    pixels = np.zeros((len(headers), *shape), np.uint8)
    for index, header in enumerate(headers):
        try:
            pixels[index] = read_image(header.path.read_bytes(), shape, MAX_IMAGE_PIXELS)
        except ImageError as error:
            problems.append(f"{header.path} is {error}")
    labels = [classes.index(header.label) for header in headers]
    return Images(torch.from_numpy(pixels), torch.tensor(labels, dtype=torch.int64))


def _has_no_colour(images: Images) -> bool:
    """Whether all pixels are grey, as in files that keep grey pictures as if they had colours."""
    return bool((images.pixels == images.pixels[:, :1]).all())


def _choose_shape(headers: list[_Header], side: int | None) -> tuple[int, int, int]:
    channels = 1 if all(header.grey for header in headers) else 3
    if side is not None:
        return channels, side, side
    width, height = headers[0].size
    if all(header.size == (width, height) for header in headers) and max(width, height) <= LARGEST_KEPT_SIDE:
        return channels, height, width
    return channels, DEFAULT_SIDE, DEFAULT_SIDE


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _by_number_then_name(label: str) -> tuple[bool, int, str]:
    return (not label.isdecimal(), int(label) if label.isdecimal() else 0, label)
