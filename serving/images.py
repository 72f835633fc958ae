"""Image files as a model's pixels."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from export.manifest import Input
from serving.ensemble import Pixels
from serving.errors import InvalidImage

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
KNOWN_FORMATS = "PNG, JPEG, WebP or BMP"
PAPER = (255, 255, 255, 255)
"""What shows through transparent pixels, as in most viewers."""

# The size is checked below, before anything is decoded, against the server's own setting.
Image.MAX_IMAGE_PIXELS = None


def read_image(file: bytes, expected: Input, max_pixels: int) -> Pixels:
    """Decode one image file and fit it to a model's input.

    The picture is turned as its EXIF tag says, transparent parts become white, it is converted to the model's
    channels, and resized to its height and width by a bilinear filter, without keeping the aspect ratio.

    Args:
        file: Content of a PNG, JPEG, WebP or BMP file.
        expected: What the model takes.
        max_pixels: Largest width times height that is decoded.

    Returns:
        uint8 (channels, height, width).

    Raises:
        InvalidImage: It is none of these formats, damaged, too large, or has several frames.
    """
    try:
        image = Image.open(io.BytesIO(file), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise InvalidImage(f"{len(file)} bytes that are no {KNOWN_FORMATS} file") from error
    except Exception as error:
        raise InvalidImage(f"a damaged file: it is no readable {KNOWN_FORMATS}") from error
    width, height = image.size
    if width * height > max_pixels:
        raise InvalidImage(f"{width}x{height} pixels, more than the limit of {max_pixels} in all")
    if (frames := getattr(image, "n_frames", 1)) != 1:
        raise InvalidImage(f"an animation of {frames} frames; send one frame a file")
    try:
        fitted = _fit(image, expected)
    except Exception as error:
        raise InvalidImage(f"a damaged {image.format} file of {width}x{height} pixels") from error
    pixels = np.asarray(fitted, np.uint8)
    return pixels[np.newaxis] if expected.channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _fit(image: Image.Image, expected: Input) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits a pixel; Pillow would clip instead of scaling
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, PAPER), image.convert("RGBA"))
    image = image.convert("L" if expected.channels == 1 else "RGB")
    return image.resize((expected.width, expected.height), Image.Resampling.BILINEAR)
