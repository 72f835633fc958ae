"""Decoding one image file and fitting it to a network's input.

The picture is turned as its EXIF tag says, resized by a bilinear filter without keeping the aspect ratio, laid on
white where it is transparent, and converted to grey (ITU-R 601 luma) or to red, green and blue.
"""

from __future__ import annotations

import io
import re

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
KNOWN_FORMATS = "PNG, JPEG, WebP or BMP"
MAX_SCANS = 100
"""Most passes over the picture in a JPEG file. Progressive files have about ten; each costs the time of decoding
the whole picture and takes but a few bytes, so that without a limit a small file could take hours."""
START_OF_SCAN, END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"
SEGMENT = re.compile(rb"\xff[\xc0-\xcf\xd9-\xfe]")
"""A marker in a JPEG file that a length follows, or that ends the picture; in image data no such bytes occur."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What sets a picture upright, by its EXIF orientation."""
SIDEWAYS = range(5, 9)
"""EXIF orientations that exchange width and height."""
PAPER = (255, 255, 255, 255)
"""What shows through transparent pixels, as in most viewers."""
GREY_LEVELS = {"L;2": 4, "L;4": 16}
"""Of PNG files with fewer than 8 bits a pixel, by Pillow's name for what it scales to 0..255."""

Pixels = npt.NDArray[np.uint8]

# Sizes are checked below, before anything is decoded, against the caller's own limit.
Image.MAX_IMAGE_PIXELS = None


class ImageError(ValueError):
    """A file is no image that can be used; the message completes the sentence "it is ..."."""


def read_image(file: bytes, shape: tuple[int, int, int], max_pixels: int) -> Pixels:
    """Decode a file and fit it.

    Args:
        file: Content of a PNG, JPEG, WebP or BMP file.
        shape: Channels (1: grey, 3: red, green, blue), height and width to fit it to.
        max_pixels: Largest width times height that is decoded.

    Returns:
        uint8 of that shape.

    Raises:
        ImageError: It is none of these formats, damaged, too large, or has several frames or too many scans.
    """
    return fit_image(open_image(file, max_pixels), shape)


def fit_image(image: Image.Image, shape: tuple[int, int, int]) -> Pixels:
    """Decode an image that has been opened, and fit it.

    Returns:
        uint8 of that shape: channels, height, width.

    Raises:
        ImageError: It is damaged.
    """
    try:
        return _fit(image, shape)
    except MemoryError:  # which says nothing of the file
        raise
    except Exception as error:  # Pillow's decoders raise many kinds for damaged content
        raise ImageError(f"a damaged {image.format} file of {image.width}x{image.height} pixels") from error


def open_image(file: bytes, max_pixels: int) -> Image.Image:
    """Read a file's header; nothing is decoded.

    Raises:
        ImageError: As for `read_image`, as far as the header shows it.
    """
    try:
        image = Image.open(io.BytesIO(file), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise ImageError(f"{len(file)} bytes that are no {KNOWN_FORMATS} file") from error
    except MemoryError:
        raise
    except Exception as error:  # as above, for damaged headers
        raise ImageError(f"a damaged file: it is no readable {KNOWN_FORMATS}") from error
    if image.format in ("JPEG", "MPO") and (scans := _count_scans(file)) > MAX_SCANS:
        raise ImageError(f"a JPEG file of {scans} scans, more than {MAX_SCANS}")
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(f"{width}x{height} pixels, more than the limit of {max_pixels} in all")
    # Phones write photographs with a second, smaller picture in the same file: JPEG as MPO.
    if (frames := getattr(image, "n_frames", 1)) != 1 and image.format != "MPO":
        raise ImageError(f"an animation of {frames} frames; one frame a file is expected")
    _scale_transparent_grey(image)
    return image


def is_grey(image: Image.Image) -> bool:
    """Whether a picture has no colours, by its mode, or by its palette if it has one."""
    if image.mode == "P":
        palette = image.getpalette("RGB") or []
        return palette[0::3] == palette[1::3] == palette[2::3]
    return image.mode in ("1", "L", "LA") or image.mode.startswith("I")


def shown_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of a picture as its EXIF tag turns it; nothing is decoded."""
    width, height = image.size
    described = not image.info.keys().isdisjoint(("exif", "xmp"))
    return (height, width) if described and _orientation(image) in SIDEWAYS else (width, height)


def _scale_transparent_grey(image: ImageFile.ImageFile) -> None:
    """Scale the value that is transparent as Pillow scales those of the pixels; it leaves this one alone."""
    levels = GREY_LEVELS.get(str(image.tile[0].args)) if image.format == "PNG" and image.tile else None
    if levels and "transparency" in image.info:
        image.info["transparency"] = image.info["transparency"] % levels * 255 // (levels - 1)


def _count_scans(file: bytes) -> int:
    """Scans of the first picture of a JPEG file; what lies in other segments or behind the picture is none."""
    scans = place = 0
    while (marker := SEGMENT.search(file, place)) and marker[0] != END_OF_IMAGE:
        scans += marker[0] == START_OF_SCAN
        length = int.from_bytes(file[marker.end() : marker.end() + 2], "big")
        place = marker.end() + max(2, length)
    return scans


def _orientation(image: Image.Image) -> int:
    """How a picture lies, as its EXIF tag says; 1, which is upright, where that is absent or cannot be read."""
    try:
        orientation: int = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # noqa: BLE001  damaged tags raise many kinds, and the picture may be whole all the same
        return 1
    return orientation


def _fit(image: Image.Image, shape: tuple[int, int, int]) -> Pixels:
    """Resize before anything else that can wait: each step on a large picture costs a copy of it."""
    channels, height, width = shape
    image.load()  # some PNG files have their EXIF tag behind the pixels
    turn = TURNS.get(_orientation(image))
    upright = image if turn is None else image.transpose(turn)
    image = _as_resizable(upright).resize((width, height), Image.Resampling.BILINEAR)
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, PAPER), image)
    image = image.convert("L" if channels == 1 else "RGB")
    pixels = np.asarray(image, np.uint8).reshape(height, width, channels)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _as_resizable(image: Image.Image) -> Image.Image:
    """In a mode whose values can be averaged: grey, colour, or colour with transparency, 8 bits each."""
    if image.mode.startswith("I"):  # 16 bits a pixel; Pillow would clip instead of scaling
        return _as_eight_bits(image)
    if image.has_transparency_data:
        return image.convert("RGBA")
    return image.convert("L") if is_grey(image) else image.convert("RGB")


def _as_eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits as grey of 8, with the value that its file calls transparent, if any, as transparency."""
    values = np.asarray(image)
    grey = Image.fromarray((values >> 8).astype(np.uint8))
    if (clear := image.info.get("transparency")) is None:
        return grey
    grey.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return grey.convert("RGBA")
