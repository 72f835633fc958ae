"""A picture of a digit becomes an input like those of the data set, or is refused with a sentence."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import ExifTags, Image

from explorer.errors import InvalidRequest, PictureRefused
from explorer.preparation import Preparation, prepare
from imaging.files import read_image
from tests.imaging.test_files import encode, gradient

MNIST = (1, 28, 28)


def prepared(image: Image.Image, *, centre: bool = True) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return prepare(encode(image), Preparation(MNIST, centre, max_pixels=10**6))


def bar_on(ground: int, ink: int, *, left: int) -> Image.Image:
    """A bar of 10x40 pixels, somewhere on 100x100."""
    image = Image.new("L", (100, 100), ground)
    image.paste(ink, (left, 5, left + 10, 45))
    return image


@pytest.mark.parametrize("image", [bar_on(255, 0, left=3), bar_on(0, 255, left=80), bar_on(230, 90, left=50)])
def test_a_stroke_is_lifted_scaled_to_20_pixels_and_centred_wherever_it_was(image: Image.Image) -> None:
    """The bar is 4 times as high as wide: 20x5 pixels, its middle at 14 +- half a pixel."""
    found = prepared(image)
    assert found.shape == MNIST
    rows, columns = np.nonzero(found[0] > 127)
    assert (rows.min(), rows.max()) == (4, 23)
    assert (columns.max() - columns.min() + 1) == 5
    assert abs(columns.mean() + 0.5 - 14) <= 0.5
    assert found.max() == 255
    assert found[0, 0, 0] == 0


def test_the_centre_is_the_centre_of_mass_and_not_of_the_frame() -> None:
    """An L has most of its ink at the lower left; there its middle lies."""
    image = Image.new("L", (100, 100), 0)
    image.paste(255, (20, 20, 30, 80))
    image.paste(255, (20, 70, 60, 80))
    found = prepared(image)[0].astype(float)
    rows, columns = np.mgrid[0:28, 0:28] + 0.5
    assert (found * rows).sum() / found.sum() == pytest.approx(14, abs=0.5)
    assert (found * columns).sum() / found.sum() == pytest.approx(14, abs=0.5)
    inked = columns[found > 127]
    assert (inked.min() + inked.max()) / 2 > 15  # the frame's own middle lies to the right


def test_an_empty_sheet_is_black() -> None:
    assert not prepared(Image.new("L", (50, 50), 255)).any()


def test_a_faint_shade_is_no_stroke() -> None:
    image = Image.new("L", (100, 100), 240)
    image.paste(235, (10, 10, 90, 90))
    assert not prepared(image).any()


@pytest.mark.parametrize("size", [(400, 3), (3, 400), (1, 1), (2000, 1000)])
def test_proportions_of_any_kind_fit(size: tuple[int, int]) -> None:
    image = Image.new("L", size, 0)
    image.paste(255, (0, 0, max(1, size[0] // 2), max(1, size[1] // 2)))
    assert prepare(encode(image), Preparation(MNIST, True, max_pixels=10**7)).shape == MNIST


def test_a_picture_that_lies_on_its_side_is_centred_as_it_is_shown() -> None:
    """Cameras store a portrait as a landscape, and a tag that says how to turn it."""
    shown = Image.new("L", (100, 200), 0)
    shown.paste(255, (30, 20, 40, 180))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # shown after a quarter to the right
    file = io.BytesIO()
    shown.transpose(Image.Transpose.ROTATE_90).save(file, "PNG", exif=exif)
    found = prepare(file.getvalue(), Preparation(MNIST, centre=True, max_pixels=10**6))
    assert np.array_equal(found, prepared(shown))


def test_without_centring_it_is_what_the_server_makes_of_the_file() -> None:
    file = encode(gradient(60))
    found = prepare(file, Preparation(MNIST, centre=False, max_pixels=10**6))
    assert np.array_equal(found, read_image(file, MNIST, 10**6))


def test_colours_cannot_be_centred() -> None:
    with pytest.raises(InvalidRequest, match="centring is for models that read grey strokes"):
        prepare(encode(gradient()), Preparation((3, 8, 8), True, max_pixels=10**6))


@pytest.mark.parametrize("centre", [True, False])
@pytest.mark.parametrize(
    ("file", "message"),
    [
        (b"<svg onload='alert(1)'/>", "it is 24 bytes that are no PNG, JPEG, WebP or BMP file."),
        (encode(gradient(64))[:-60], "it is a damaged PNG file of 64x64 pixels."),
        (encode(Image.new("1", (1001, 1000))), "it is 1001x1000 pixels, more than the limit of 1000000 in all."),
    ],
)
def test_what_cannot_be_used_is_refused_with_a_sentence(file: bytes, message: str, centre: bool) -> None:
    with pytest.raises(PictureRefused) as error:
        prepare(file, Preparation(MNIST, centre, max_pixels=10**6))
    assert str(error.value) == f"This picture cannot be used: {message}"
