"""Image files of every kind become the model's pixels, or are refused with a sentence."""

from __future__ import annotations

import io
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image

from imaging.files import MAX_SCANS, START_OF_SCAN, ImageError, is_grey, open_image, read_image, shown_size

GREY = (1, 8, 8)
COLOUR = (3, 8, 8)
LIMIT = 10_000


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def gradient(side: int = 8) -> Image.Image:
    """Grey, darker on the left, lighter at the bottom."""
    rows, columns = np.mgrid[0:side, 0:side]
    return Image.fromarray(((rows + 2 * columns) * 255 // (3 * side)).astype(np.uint8))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP"])
def test_lossless_files_of_the_right_size_keep_every_pixel(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    file = encode(gradient().convert("RGB"), kind, **options)
    assert np.array_equal(read_image(file, GREY, LIMIT)[0], np.asarray(gradient()))


def test_jpeg_keeps_pixels_nearly() -> None:
    found = read_image(encode(gradient(), "JPEG", quality=95), GREY, LIMIT)[0]
    assert np.abs(found.astype(int) - np.asarray(gradient())).max() <= 6


def test_shape_and_type_follow_the_model() -> None:
    file = encode(gradient(20))
    assert read_image(file, GREY, LIMIT).shape == (1, 8, 8)
    assert read_image(file, (3, 5, 9), LIMIT).shape == (3, 5, 9)
    assert read_image(file, COLOUR, LIMIT).dtype == np.uint8


def test_colours_stay_in_the_order_red_green_blue() -> None:
    file = encode(Image.new("RGB", (8, 8), (200, 100, 50)))
    assert read_image(file, COLOUR, LIMIT)[:, 0, 0].tolist() == [200, 100, 50]


def test_colour_becomes_grey_by_luma() -> None:
    """ITU-R 601: 0.299 red + 0.587 green + 0.114 blue."""
    file = encode(Image.new("RGB", (8, 8), (200, 100, 50)))
    assert read_image(file, GREY, LIMIT)[0, 0, 0] == round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK"])
@pytest.mark.parametrize("expected", [GREY, COLOUR])
def test_a_mid_grey_picture_of_any_mode_is_mid_grey(mode: str, expected: tuple[int, int, int]) -> None:
    if mode == "I;16":
        image = Image.fromarray(np.full((8, 8), 128 * 256, np.uint16))
    elif mode == "P":
        image = Image.new("P", (8, 8), 1)
        image.putpalette([0, 0, 0, 128, 128, 128])
    elif mode == "1":
        image = Image.new("1", (8, 8), 1)
    else:
        image = Image.new("L", (8, 8), 128).convert("RGB").convert(mode)
    file = encode(image, "JPEG" if mode == "CMYK" else "PNG")
    wanted = 255 if mode == "1" else 128
    assert np.abs(read_image(file, expected, LIMIT).astype(int) - wanted).max() <= 2


def test_transparent_parts_become_paper() -> None:
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    image.paste((10, 10, 10, 255), (0, 0, 4, 8))
    found = read_image(encode(image), GREY, LIMIT)[0]
    assert (found[:, :4] == 10).all()
    assert (found[:, 4:] == 255).all()


def test_a_transparent_palette_colour_becomes_paper() -> None:
    image = Image.new("P", (8, 8), 0)
    image.putpalette([0, 0, 0, 90, 90, 90])
    assert (read_image(encode(image, transparency=0), GREY, LIMIT) == 255).all()


def test_pictures_are_turned_as_their_camera_says() -> None:
    image = Image.new("L", (8, 8), 0)
    image.paste(255, (0, 0, 8, 4))  # light on top
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    found = read_image(encode(image, "PNG", exif=exif), GREY, LIMIT)[0]
    assert (found[:, 4:] == 255).all()
    assert (found[:, :4] == 0).all()


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
@pytest.mark.parametrize("exif", [b"Exif\0\0no TIFF file", b"Exif\0\0MM\0*\0\0"])
def test_a_picture_of_broken_exif_is_read_as_it_lies(kind: str, exif: bytes) -> None:
    file = encode(gradient(), kind, quality=95, exif=exif, dpi=(72, 72))  # which Pillow else looks for in the tags
    assert shown_size(open_image(file, LIMIT)) == (8, 8)
    found = read_image(file, GREY, LIMIT)[0]
    assert np.abs(found.astype(int) - np.asarray(gradient())).max() <= 6


@pytest.mark.parametrize(
    ("orientation", "turned"),
    [
        (1, [[0, 1], [2, 3]]),
        (2, [[1, 0], [3, 2]]),
        (3, [[3, 2], [1, 0]]),
        (4, [[2, 3], [0, 1]]),
        (5, [[0, 2], [1, 3]]),
        (6, [[2, 0], [3, 1]]),
        (7, [[3, 1], [2, 0]]),
        (8, [[1, 3], [0, 2]]),
        (9, [[0, 1], [2, 3]]),
    ],
)
def test_every_turn_is_that_of_the_exif_standard(orientation: int, turned: list[list[int]]) -> None:
    image = Image.fromarray(np.array([[0, 1], [2, 3]], np.uint8))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    assert read_image(encode(image, exif=exif), (1, 2, 2), LIMIT)[0].tolist() == turned


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (b"", "0 bytes that are no PNG, JPEG, WebP or BMP file"),
        (b"hello", "5 bytes that are no PNG"),
        (b"<svg onload='alert(1)'/>", "no PNG"),
        (encode(gradient(), "GIF"), "no PNG"),
        (encode(gradient(), "TIFF"), "no PNG"),
        (encode(gradient(64))[:-60], "a damaged PNG file of 64x64 pixels"),
        (encode(gradient(64), "JPEG")[:-200], "a damaged JPEG file of 64x64 pixels"),
        (encode(gradient(101)), "101x101 pixels, more than the limit of 10000 in all"),
    ],
)
def test_what_cannot_be_used_is_refused(file: bytes, message: str) -> None:
    with pytest.raises(ImageError) as error:
        read_image(file, GREY, LIMIT)
    assert message in str(error.value)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_animations_are_refused(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    file = encode(frames[0], kind, save_all=True, append_images=frames[1:])
    with pytest.raises(ImageError, match="an animation of 3 frames"):
        read_image(file, GREY, LIMIT)


def test_photographs_with_a_preview_beside_are_read() -> None:
    """As many phones write them: two JPEG pictures in one file, the first of which counts."""
    file = encode(gradient().convert("RGB"), "MPO", save_all=True, append_images=[Image.new("RGB", (4, 4))])
    assert Image.open(io.BytesIO(file)).n_frames == 2  # type: ignore[attr-defined]  # of this format alone
    assert read_image(file, COLOUR, LIMIT).shape == (3, 8, 8)


def test_bytes_that_only_look_like_scans_are_none() -> None:
    """A video behind the picture, as some phones write it, or a preview in a segment before it."""
    file = encode(gradient(), "JPEG")
    scans = START_OF_SCAN * (MAX_SCANS + 1)
    comment = b"\xff\xfe" + (2 + len(scans)).to_bytes(2, "big") + scans
    assert read_image(file + scans, GREY, LIMIT).shape == GREY
    assert read_image(file[:2] + comment + file[2:], GREY, LIMIT).shape == GREY


@pytest.mark.parametrize(
    "between", [b"", b"\xff", b"\xff\xff", b"\xff\x00", b"\xff\xd0", b"\xff\xe0\0\0", b"\xff\xc4\0\2"]
)
def test_scans_are_counted_whatever_lies_between(between: bytes) -> None:
    file = encode(gradient(), "JPEG")
    scan = file[file.index(START_OF_SCAN) : -2]
    many = file[:-2] + (between + scan) * MAX_SCANS + file[-2:]
    with pytest.raises(ImageError, match=f"a JPEG file of {MAX_SCANS + 1} scans, more than {MAX_SCANS}"):
        read_image(many, GREY, LIMIT)


def test_a_decompression_bomb_is_refused_by_its_header() -> None:
    """A PNG of a few bytes that promises 60,000 x 60,000 pixels."""
    file = bytearray(encode(Image.new("L", (8, 8))))
    file[16:24] = (60_000).to_bytes(4, "big") * 2
    file[29:33] = zlib.crc32(bytes(file[12:29])).to_bytes(4, "big")  # or else it would be refused as damaged
    with pytest.raises(ImageError, match="60000x60000 pixels, more than the limit"):
        read_image(bytes(file), GREY, LIMIT)


@pytest.mark.parametrize(("kind", "step"), [(Image, "open"), (Image.Image, "resize")], ids=["open", "decode"])
def test_memory_that_runs_out_is_not_the_files_fault(
    monkeypatch: pytest.MonkeyPatch, kind: Any, step: str
) -> None:
    def run_out(*_: object, **__: object) -> None:
        raise MemoryError

    file = encode(gradient())
    monkeypatch.setattr(kind, step, run_out)
    with pytest.raises(MemoryError):
        read_image(file, GREY, LIMIT)


@given(st.data())
def test_damaged_files_never_raise_anything_else(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "WEBP", "BMP"]))
    file = bytearray(encode(gradient(16).convert("RGB"), kind))
    for _ in range(data.draw(st.integers(1, 8))):
        file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = read_image(bytes(file), GREY, LIMIT)
    except ImageError:
        return
    assert found.shape == (1, 8, 8)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA"])
def test_colours_are_told_by_the_files_mode(mode: str) -> None:
    image = Image.open(io.BytesIO(encode(Image.new(mode, (8, 8)))))
    assert is_grey(image) == (mode in ("1", "L", "LA"))


@pytest.mark.parametrize(("colour", "grey"), [((90, 90, 90), True), ((200, 30, 30), False)])
def test_a_palette_is_grey_if_all_of_it_is(colour: tuple[int, int, int], grey: bool) -> None:
    picture = Image.new("RGB", (8, 8), colour).quantize(2)
    assert is_grey(Image.open(io.BytesIO(encode(picture)))) == grey


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize(("orientation", "shown"), [(1, (8, 5)), (3, (8, 5)), (6, (5, 8)), (8, (5, 8))])
def test_the_size_is_that_of_the_picture_as_it_is_turned(
    file_format: str, orientation: int, shown: tuple[int, int]
) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    file = io.BytesIO()
    Image.new("RGB", (8, 5)).save(file, file_format, exif=exif)
    opened = Image.open(file)
    assert shown_size(opened) == shown
    assert read_image(file.getvalue(), (3, shown[1], shown[0]), 100).shape == (3, shown[1], shown[0])


def test_grey_of_sixteen_bits_lies_on_white_where_its_file_calls_a_value_transparent() -> None:
    """As grey of eight bits does; otherwise its ground would turn round."""
    values = np.array([[0, 300], [40_000, 65_535]], np.uint16)
    file = encode(Image.fromarray(values), transparency=0)
    assert read_image(file, (1, 2, 2), LIMIT)[0].tolist() == [[255, 1], [156, 255]]
    assert read_image(encode(Image.fromarray(values)), (1, 2, 2), LIMIT)[0].tolist() == [[0, 1], [156, 255]]


def small_grey(bits: int, rows: bytes, clear: int) -> bytes:
    """A PNG file of one row a byte, of which a value is transparent; Pillow writes none of so few bits."""
    size = (8 // bits).to_bytes(4, "big") + len(rows).to_bytes(4, "big")
    chunks = {
        b"IHDR": size + bytes([bits, 0, 0, 0, 0]),
        b"tRNS": clear.to_bytes(2, "big"),
        b"IDAT": zlib.compress(b"".join(b"\0" + bytes([row]) for row in rows)),
        b"IEND": b"",
    }
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")
        for kind, content in chunks.items()
    )


@pytest.mark.parametrize(
    ("bits", "row", "clear", "expected"),
    [
        (1, 0b01010101, 0, [255] * 8),
        (1, 0b01010101, 1, [0, 255] * 4),
        (2, 0b00011011, 1, [0, 255, 170, 255]),
        (2, 0b00011011, 3, [0, 85, 170, 255]),
        (2, 0b00011011, 0, [255, 85, 170, 255]),
        (4, 0x5A, 5, [255, 170]),
        (4, 0x5A, 10, [85, 255]),
    ],
)
def test_grey_of_few_bits_lies_on_white_where_its_file_calls_a_value_transparent(
    bits: int, row: int, clear: int, expected: list[int]
) -> None:
    file = small_grey(bits, bytes([row]), clear)
    assert read_image(file, (1, 1, 8 // bits), LIMIT)[0, 0].tolist() == expected
