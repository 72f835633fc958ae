"""Distortions are within their limits, one draw an image, and repeatable."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from training.augmentation import Affine, distort, flip_some, random_maps

STRONG = Affine(rotation_degrees=12, shift=0.08, shear_radians=0.2, zoom=0.12)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_no_distortion_changes_nothing() -> None:
    images = torch.rand(3, 1, 8, 8, generator=seeded())
    assert torch.allclose(distort(images, Affine(), seeded()), images, atol=1e-5)


def test_the_same_generator_state_gives_the_same_images() -> None:
    images = torch.rand(3, 1, 8, 8, generator=seeded())
    assert torch.equal(distort(images, STRONG, seeded(5)), distort(images, STRONG, seeded(5)))
    assert not torch.equal(distort(images, STRONG, seeded(5)), distort(images, STRONG, seeded(6)))


def test_each_image_gets_its_own_draw() -> None:
    image = torch.rand(1, 1, 8, 8, generator=seeded())
    distorted = distort(image.repeat(4, 1, 1, 1), STRONG, seeded())
    assert all(not torch.equal(distorted[0], other) for other in distorted[1:])


def test_values_stay_in_range() -> None:
    images = 255 * torch.rand(64, 3, 8, 8, generator=seeded())
    distorted = distort(images, STRONG, seeded())
    assert distorted.shape == images.shape
    assert 0 <= distorted.min() <= distorted.max() <= 255.001


def test_a_pure_shift_moves_by_whole_units_of_the_side() -> None:
    """Shift 0.25 of the side is at most 0.5 in coordinates that span -1..1, and the rest stays the identity."""
    maps = random_maps(1000, Affine(shift=0.25), seeded())
    assert torch.equal(maps[:, :, :2], torch.eye(2).expand(1000, 2, 2))
    assert 0.48 < maps[:, :, 2].abs().max() <= 0.5


def test_a_pure_rotation_has_determinant_one_and_stays_below_its_limit() -> None:
    linear = random_maps(1000, Affine(rotation_degrees=10), seeded())[:, :, :2]
    assert torch.allclose(torch.linalg.det(linear), torch.ones(1000), atol=1e-5)
    angles = torch.atan2(linear[:, 1, 0], linear[:, 0, 0]).rad2deg()
    assert 9.5 < angles.abs().max() <= 10.001


def test_zoom_scales_each_axis_on_its_own() -> None:
    linear = random_maps(1000, Affine(zoom=0.2), seeded())[:, :, :2]
    assert torch.equal(linear[:, 0, 1], torch.zeros(1000))
    zooms = 1 / torch.stack([linear[:, 0, 0], linear[:, 1, 1]])
    assert 0.8 <= zooms.min() < 0.81
    assert 1.19 < zooms.max() <= 1.2001
    assert not torch.equal(zooms[0], zooms[1])


def test_half_of_the_images_are_mirrored_whole() -> None:
    images = torch.arange(400.0).view(100, 1, 2, 2)
    flipped = flip_some(images, seeded())
    mirrored = [bool(torch.equal(one, other.flip(2))) for one, other in zip(flipped, images, strict=True)]
    same = [bool(torch.equal(one, other)) for one, other in zip(flipped, images, strict=True)]
    assert all(one != other for one, other in zip(mirrored, same, strict=True))
    assert 35 < sum(mirrored) < 65


@pytest.mark.parametrize("bad", [{"shift": 1.5}, {"zoom": -0.1}, {"rotation": 5}])
def test_impossible_limits_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Affine.model_validate(bad)


def test_nearest_neighbour_invents_no_values() -> None:
    images = torch.randint(0, 256, (16, 1, 12, 12), generator=seeded()).float()
    strong = STRONG.model_copy(update={"interpolation": "nearest"})
    distorted = distort(images, strong, seeded())
    assert not torch.equal(distorted, images)
    assert all(
        set(one.flatten().tolist()) <= set(other.flatten().tolist())
        for one, other in zip(distorted, images, strict=True)
    )
