"""Image files that are damaged, cut off, of the wrong kind, or bombs."""

from __future__ import annotations

import functools
import io
from random import Random

from PIL import Image

KINDS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "MPO", "ICO", "PPM", "TGA")
"""The first four are taken; of the others, none but the photographs of phones, MPO, may be."""
MODES = ("L", "RGB", "RGBA", "P", "1", "CMYK")
MAX_CHANGES = 8


def image_file(random: Random) -> bytes:
    """A picture's file, whole or not."""
    file = _encode(random.choice(KINDS), random.choice(MODES), random.choice((1, 4, 16, 40)))
    change = random.choice((_keep, _keep, _flip, _cut, _repeat, _promise_more, _append, _bomb))
    return change(file, random)


@functools.cache
def _encode(kind: str, mode: str, side: int) -> bytes:
    """A gradient; as a kind that cannot have the mode, in one that it can."""
    image = Image.linear_gradient("L").resize((side, side)).convert("RGB").convert(mode)
    for fitting in (image, image.convert("RGB")):
        buffer = io.BytesIO()
        try:
            fitting.save(buffer, kind)
        except (OSError, ValueError):
            continue
        return buffer.getvalue()
    raise AssertionError(f"{kind} has no colours")


def _keep(file: bytes, _: Random) -> bytes:
    return file


def _flip(file: bytes, random: Random) -> bytes:
    changed = bytearray(file)
    for _ in range(random.randint(1, MAX_CHANGES)):
        changed[random.randrange(len(changed))] = random.choice((0, 0xFF, 0xDA, 0xD8, random.randrange(256)))
    return bytes(changed)


def _cut(file: bytes, random: Random) -> bytes:
    return file[: random.randrange(len(file))]


def _repeat(file: bytes, random: Random) -> bytes:
    start, end = sorted(random.randrange(len(file)) for _ in range(2))
    return file[:end] + file[start:end] * random.randint(1, MAX_CHANGES) + file[end:]


def _promise_more(file: bytes, random: Random) -> bytes:
    """Four bytes near the head, where sizes stand, become large."""
    place = random.randrange(min(len(file), 64))
    return (
        file[:place]
        + random.choice((b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x00\x00\xea\x60"))
        + file[place + 4 :]
    )


def _append(file: bytes, random: Random) -> bytes:
    return file + random.randbytes(random.randrange(200))


def _bomb(_: bytes, random: Random) -> bytes:
    return _bombs()[random.randrange(len(_bombs()))]


@functools.cache
def _bombs() -> tuple[bytes, ...]:
    """More pixels than the limit in few bytes, there or promised; and a thousand passes over one picture."""
    files = []
    for kind in ("PNG", "JPEG", "WEBP"):
        buffer = io.BytesIO()
        Image.new("L", (5001, 5001)).save(buffer, kind)
        files.append(buffer.getvalue())
    promised = bytearray(_encode("PNG", "L", 16))
    promised[16:24] = (60_000).to_bytes(4, "big") * 2
    return (*files, bytes(promised), many_scans(1000))


def many_scans(scans: int, side: int = 200) -> bytes:
    """A progressive JPEG file whose last scan comes `scans` times more."""
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((side, side)).save(buffer, "JPEG", progressive=True)
    file = buffer.getvalue()
    last = file[file.rindex(b"\xff\xda") : -2]
    return file[:-2] + last * scans + file[-2:]
