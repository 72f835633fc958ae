"""Random affine distortion of a whole batch at once, one draw per image.

An output pixel at x takes its value from the input at A x + t, with

    A = shear(s) . rotation(r) . diag(1/zoom_x, 1/zoom_y)

in the normalized coordinates of `torch.nn.functional.affine_grid`, where the image spans -1..1.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, Field
from torch import Tensor


class Affine(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """Largest distortions; each image draws its own, uniformly between minus and plus these."""

    rotation_degrees: float = Field(default=0.0, ge=0, le=180)
    """Rotation about the image's centre."""
    shift: float = Field(default=0.0, ge=0, lt=1)
    """Shift along each axis, as a share of the image's side."""
    shear_radians: float = Field(default=0.0, ge=0, lt=math.pi / 2)
    """Shear angle."""
    zoom: float = Field(default=0.0, ge=0, lt=1)
    """Change of scale, drawn for each axis: 0.08 gives 0.92 to 1.08."""
    interpolation: Literal["bilinear", "nearest"] = "bilinear"
    """How a value between pixels is found."""


def distort(images: Tensor, affine: Affine, generator: torch.Generator) -> Tensor:
    """Distort every image by its own random affine map, edge pixels repeated outwards.

    Args:
        images: float32 (count, channels, height, width).
        affine: Largest distortions.
        generator: Source of the draws, on the images' device; the same state gives the same images.

    Returns:
        float32 of the same shape and value range.
    """
    maps = random_maps(len(images), affine, generator, images.device)
    grid = F.affine_grid(maps, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode=affine.interpolation, padding_mode="border", align_corners=False)


def flip_some(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image left to right with probability one half: (count, channels, height, width)."""
    flipped = torch.rand(len(images), 1, 1, 1, generator=generator, device=images.device) < 0.5
    return torch.where(flipped, images.flip(3), images)


def random_maps(
    count: int, affine: Affine, generator: torch.Generator, device: torch.device | None = None
) -> Tensor:
    """Draw one map from output to input coordinates per image: float32 (count, 2, 3)."""

    def draw(limit: float, columns: int = 1) -> Tensor:
        return (torch.rand(count, columns, generator=generator, device=device) * 2 - 1) * limit

    rotation = draw(math.radians(affine.rotation_degrees)).squeeze(1)
    shear = draw(affine.shear_radians).squeeze(1)
    scale = 1 / (1 + draw(affine.zoom, 2))  # (count, 2): y, x
    shift = draw(2 * affine.shift, 2)  # the image spans two units
    cos, sin, slope = rotation.cos(), rotation.sin(), shear.tan()
    linear = torch.stack(  # (count, 2, 2): rows x, y
        [
            torch.stack([cos + slope * sin, slope * cos - sin], dim=1),
            torch.stack([sin, cos], dim=1),
        ],
        dim=1,
    )
    linear = linear * scale.flip(1).unsqueeze(1)  # columns x, y
    return torch.cat([linear, shift.unsqueeze(2)], dim=2)  # (count, 2, 3)
