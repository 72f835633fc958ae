"""Image files of one call become pixels, within limits of size and time for all of them together."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from export.manifest import Input
from imaging.files import ImageError, fit_image, open_image
from machine.cores import available_cores
from serving.ensemble import Pixels
from serving.errors import InvalidRequest
from serving.loop import aside, files
from serving.settings import ServerSettings


async def decode_files(contents: Sequence[bytes], expected: Input, settings: ServerSettings) -> Pixels:
    """Decode image files to uint8 (images, channels, height, width), one after the other.

    Raises:
        InvalidRequest: One is not usable, or all together are too large or take too long; the message says which.
    """
    pixels = np.empty((len(contents), *expected.shape), np.uint8)
    decoder = _Decoder(expected, settings)
    helpers = files(settings.threads or available_cores())
    for index, file in enumerate(contents):
        try:
            pixels[index] = await aside(helpers, decoder.decode, file)
        except ImageError as error:
            raise InvalidRequest(f"image {index + 1} of {len(contents)}: {error}") from error
        except InvalidRequest as error:
            raise InvalidRequest(f"{error} with image {index + 1} of {len(contents)}") from error
    return pixels


class _Decoder:
    """Decodes the files of one call, and remembers what they have cost."""

    def __init__(self, expected: Input, settings: ServerSettings) -> None:
        self._shape = expected.shape
        self._settings = settings
        self._pixels = 0
        self._seconds = 0.0

    def decode(self, file: bytes) -> Pixels:
        """One file as uint8 (channels, height, width).

        Raises:
            ImageError: It is not usable.
            InvalidRequest: It is too much, with those before it.
        """
        # Of this thread alone: that others are at work as well is not the caller's fault.
        started = time.thread_time()
        image = open_image(file, self._settings.max_image_pixels)
        self._pixels += image.width * image.height
        if self._pixels > (most := self._settings.max_call_pixels):
            raise InvalidRequest(f"all images together pass the limit of {most} pixels")
        pixels = fit_image(image, self._shape)
        self._seconds += time.thread_time() - started
        if self._seconds > (longest := self._settings.max_decode_seconds):
            raise InvalidRequest(f"decoding passes the limit of {longest:g} s of processor time")
        return pixels
