"""Sheets of thumbnails: a row for each unit, its strongest images and the input that excites it most."""

from __future__ import annotations

import json
import math
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from training.dataset import Images
from training.units import STRONGEST_IMAGES, Strongest, UnitLayer

MOST_TILE_SIDE = 64
"""Larger images are shown at this height and width, in pixels."""


def write_layer(
    folder: Path,
    layer: UnitLayer,
    images: Images,
    strongest: Strongest,
    pictures: Tensor,
    answers: Tensor,
    tile: tuple[int, int],
) -> None:
    """The sheet of a layer, and beside it what is on it.

    Args:
        folder: Of the member.
        layer: One of its own.
        images: Those that `strongest` counts.
        strongest: By unit.
        pictures: uint8 (units, channels, height, width), the inputs that excite the units most.
        answers: float32 (units,), to those.
        tile: Height and width of a thumbnail.
    """
    rows = [
        sheet_row(torch.cat([images.pixels[strongest.images[unit]], pictures[unit : unit + 1]]), tile)
        for unit in range(layer.units)
    ]
    (folder / f"{file_stem(layer)}.png").write_bytes(_png(torch.cat(rows, dim=1)))
    content = {
        "images": strongest.images.tolist(),
        "labels": images.labels[strongest.images].tolist(),
        "values": _rounded(strongest.values),
        "maximised": _rounded(answers),
    }
    (folder / f"{file_stem(layer)}.json").write_text(json.dumps(content) + "\n", encoding="utf-8")


def file_stem(layer: UnitLayer) -> str:
    """What a layer's files are called, without their ending."""
    return layer.title.replace(" ", "-")


def tile_size(shape: tuple[int, int, int]) -> tuple[int, int]:
    """Height and width at which images of a shape are shown: their own, or `MOST_TILE_SIDE` at most."""
    scale = min(1.0, MOST_TILE_SIDE / max(shape[1:]))
    return max(1, round(shape[1] * scale)), max(1, round(shape[2] * scale))


def sheet_row(pixels: Tensor, tile: tuple[int, int]) -> Tensor:
    """Pictures side by side: uint8 (pictures, channels, height, width) to (channels, tile height, all widths).

    Fewer than all, the last keeps its place: what is missing is black.
    """
    if tuple(pixels.shape[2:]) != tile:
        shrunk = F.interpolate(pixels.float(), tile, mode="bilinear", antialias=True)
        pixels = shrunk.round().clamp(0, 255).to(torch.uint8)
    missing = STRONGEST_IMAGES + 1 - len(pixels)
    black = torch.zeros(missing, *pixels.shape[1:], dtype=torch.uint8)
    return torch.cat([*pixels[:-1], *black, pixels[-1]], dim=2)


def _png(pixels: Tensor) -> bytes:
    """uint8 (1 or 3, height, width) as a file."""
    values = pixels[0].numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).numpy()
    buffer = BytesIO()
    Image.fromarray(values).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _rounded(values: Tensor) -> list[Any]:
    """Four digits after the point, as nested lists; what is no number would be no JSON."""
    found: list[Any] = [round(value, 4) if math.isfinite(value) else None for value in values.flatten().tolist()]
    if values.ndim == 1:
        return found
    width = values.shape[1]
    return [found[start : start + width] for start in range(0, len(found), width)]
