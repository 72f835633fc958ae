"""Recipes: everything that decides how a member is trained, but its seed."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, Field

from training.augmentation import Affine
from training.errors import RecipeError


class Recipe(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """How to train a member. The optimizer is AdamW; without weight decay that is Adam."""

    name: str
    """What the recipe is called on the command line."""
    architecture: str
    """A name in `training.architectures.ARCHITECTURES`."""
    epochs: int = Field(ge=1)
    """Passes over the training images."""
    batch_images: int = Field(default=128, ge=2)
    """Most images a step. What is left of an epoch after the last whole batch is left out of it."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """The constant rate, or the peak of the cycle."""
    schedule: Literal["constant", "one_cycle"] = "constant"
    """How the learning rate moves over the whole training."""
    warm_up: float = Field(default=0.2, gt=0, lt=1)
    """Share of a one-cycle schedule in which the rate rises."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of the target spread evenly over all classes."""
    average_decay: float = Field(default=0.0, ge=0, lt=1)
    """Decay a step of the moving average of the weights that becomes the member; 0 keeps the last weights."""
    affine: Affine = Affine()
    """Random distortion of the training images."""
    flip: bool = False
    """Mirror half of the training images; right for most photographs, wrong for anything that is read."""
    strokes: bool = True
    """Bring the ground of each image to black and its strokes to white first; right for digits, wrong for
    photographs."""

    def learning_rate_at(self, progress: float) -> float:
        """Learning rate when `progress` (0..1) of all steps are done.

        One cycle: a linear rise over `warm_up`, then half a cosine down to zero (after L. Smith, N. Topin,
        "Super-Convergence", 2018).
        """
        if self.schedule == "constant":
            return self.learning_rate
        if progress < self.warm_up:
            return self.learning_rate * progress / self.warm_up
        falling = (progress - self.warm_up) / (1 - self.warm_up)
        return self.learning_rate * (1 + math.cos(math.pi * falling)) / 2


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="default",
            architecture="cnn_slim",
            epochs=12,
            learning_rate=4e-3,
            schedule="one_cycle",
            weight_decay=0.02,
            average_decay=0.998,
            affine=Affine(rotation_degrees=12, shift=0.08, shear_radians=0.2, zoom=0.12),
        ),
        Recipe(
            name="photographs",
            architecture="cnn_blocks",
            epochs=30,
            batch_images=64,
            learning_rate=3e-3,
            schedule="one_cycle",
            weight_decay=0.05,
            average_decay=0.998,
            affine=Affine(rotation_degrees=8, shift=0.1, shear_radians=0.1, zoom=0.1),
            flip=True,
            strokes=False,
        ),
        Recipe(
            name="lesson",
            architecture="cnn_bn_dropout",
            epochs=12,
            batch_images=64,
            affine=Affine(rotation_degrees=8, shift=0.08, shear_radians=0.3, zoom=0.08),
        ),
    )
}


def find_recipe(name: str) -> Recipe:
    """The recipe called `name`.

    Raises:
        RecipeError: There is none.
    """
    if name not in RECIPES:
        raise RecipeError(f"no recipe is called {name!r}; there are {', '.join(RECIPES)}")
    return RECIPES[name]
