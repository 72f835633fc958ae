"""A picture of a digit, made to look like one of the data set's.

MNIST's digits were cut out, scaled to fit 20x20 pixels, and laid into 28x28 with their centre of mass in the
middle (Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits"). The same is done here, in the
same proportions for inputs of other sizes. What a network was trained on decides what it can read.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from explorer.errors import InvalidRequest, PictureRefused
from imaging.files import ImageError, Pixels, open_image, read_image, shown_size

INK_SHARE = 20 / 28
"""Of the input's side, that the digit's longer side fills."""
WORK_SIDE = 256
"""Pictures are cut out and centred at this size or below, in pixels."""
FAINT = 0.15
"""What is fainter than this share of the strongest stroke is ground."""
Ink = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Preparation:
    """How a picture becomes an input.

    Attributes:
        shape: Channels, height and width of the model's input.
        centre: Whether to cut out, scale and centre the digit, or to fit the picture as the server would.
        max_pixels: Largest picture, in pixels once decoded.
    """

    shape: tuple[int, int, int]
    centre: bool
    max_pixels: int


def prepare(file: bytes, preparation: Preparation) -> Pixels:
    """An image file as the model takes it.

    Returns:
        uint8 (channels, height, width).

    Raises:
        PictureRefused: The file is no picture that can be used.
        InvalidRequest: Centring is asked for a model that reads colours.
    """
    channels, height, width = preparation.shape
    try:
        if not preparation.centre:
            return read_image(file, preparation.shape, preparation.max_pixels)
        if channels != 1:
            raise InvalidRequest("centring is for models that read grey strokes, and this one reads colours")
        size = _working_size(*shown_size(open_image(file, preparation.max_pixels)))
        grey = read_image(file, (1, *size), preparation.max_pixels)[0]
    except ImageError as error:
        raise PictureRefused(f"This picture cannot be used: it is {error}.") from error
    return centre_strokes(lift(grey), height, width)[np.newaxis]


def lift(grey: npt.NDArray[np.uint8]) -> Ink:
    """Strokes on black, whatever they were on: float64 (height, width), the ground 0 and the strongest 255."""
    values = grey.astype(np.float64)
    border = np.concatenate([values[0], values[-1], values[:, 0], values[:, -1]])
    ground = float(np.median(border))
    ink = np.maximum(ground - values if ground > 127.5 else values - ground, 0.0)
    strongest = float(ink.max())
    if strongest < 255 * FAINT:
        return np.zeros_like(ink)
    lifted: Ink = np.where(ink < FAINT * strongest, 0.0, ink * (255 / strongest))
    return lifted


def centre_strokes(ink: Ink, height: int, width: int) -> Pixels:
    """Cut out what is not 0, scale it to the data set's share, lay its centre of mass in the middle.

    Args:
        ink: float64 (any height, any width), 0..255.
        height: Of the input, in pixels.
        width: Of the input, in pixels.

    Returns:
        uint8 (height, width); black where there is no ink.
    """
    canvas = np.zeros((height, width), np.uint8)
    if not ink.any():
        return canvas
    rows, columns = np.nonzero(ink.any(axis=1))[0], np.nonzero(ink.any(axis=0))[0]
    cut = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = min(round(height * INK_SHARE) / cut.shape[0], round(width * INK_SHARE) / cut.shape[1])
    size = (max(1, round(cut.shape[1] * scale)), max(1, round(cut.shape[0] * scale)))
    digit = np.asarray(Image.fromarray(cut.astype(np.uint8)).resize(size, Image.Resampling.BILINEAR))
    top, left = _placed(digit, height, axis=0), _placed(digit, width, axis=1)
    canvas[top : top + digit.shape[0], left : left + digit.shape[1]] = digit
    return canvas


def _placed(digit: npt.NDArray[np.uint8], side: int, axis: int) -> int:
    """Where the digit begins along an axis, so that its centre of mass is in the middle and all of it inside."""
    weights = digit.sum(axis=1 - axis, dtype=np.float64)
    mass = float((weights * (np.arange(len(weights)) + 0.5)).sum() / weights.sum())
    return int(np.clip(round(side / 2 - mass), 0, side - len(weights)))


def _working_size(width: int, height: int) -> tuple[int, int]:
    """Height and width with the same proportions, neither above `WORK_SIDE`."""
    scale = min(1.0, WORK_SIDE / max(width, height))
    return max(1, round(height * scale)), max(1, round(width * scale))
