"""Recipes: everything that decides how a member is trained, but its seed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import accumulate
from typing import Literal, Self

from pydantic import BaseModel, Field, ValidationError, model_validator

from training.augmentation import Affine
from training.errors import RecipeError


class Stage(BaseModel, frozen=True, extra="forbid"):
    """Epochs in a row at one learning rate."""

    epochs: int = Field(ge=1)
    learning_rate: float = Field(gt=0, allow_inf_nan=False)


class Recipe(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """How to train the members of an ensemble. The optimizer is AdamW; without weight decay that is Adam."""

    name: str
    """What the recipe is called on the command line."""
    architectures: tuple[str, ...] = Field(min_length=1)
    """Names in `training.architectures.ARCHITECTURES`, which the members take in turn."""
    members: int = Field(default=6, ge=1, le=999)
    """How many networks are averaged."""
    epochs: int = Field(ge=1)
    """Passes over the training images."""
    batch_images: int = Field(default=128, ge=2)
    """Most images a step. What is left of an epoch after the last whole batch is left out of it."""
    learning_rate: float = Field(default=1e-3, gt=0, allow_inf_nan=False)
    """The constant rate, or the peak of the cycle."""
    schedule: Literal["constant", "one_cycle", "staged"] = "constant"
    """How the learning rate moves over the whole training."""
    stages: tuple[Stage, ...] = ()
    """Of the staged schedule, in order; together as many epochs as the recipe."""
    warm_up: float = Field(default=0.2, gt=0, lt=1)
    """Share of a one-cycle schedule in which the rate rises."""
    weight_decay: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Decoupled weight decay."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of the target spread evenly over all classes."""
    average_decay: float = Field(default=0.0, ge=0, lt=1)
    """Decay a step of the moving average of the weights that becomes the member; 0 keeps the last weights."""
    affines: tuple[Affine, ...] = Field(default=(Affine(),), min_length=1)
    """Random distortions of the training images, which the members take in turn."""
    flip: bool = False
    """Mirror half of the training images; right for most photographs, wrong for anything that is read."""
    strokes: bool = True
    """Bring the ground of each image to black and its strokes to white first; right for digits, wrong for
    photographs."""

    def member_seeds(self, seed: int) -> tuple[int, ...]:
        """One a member; ensembles of different seeds share none."""
        return tuple(seed * 1000 + member for member in range(1, self.members + 1))

    def learning_rate_at(self, progress: float) -> float:
        """Learning rate when `progress` (0..1) of all steps are done.

        Staged: that of the stage which the last of these steps belonged to.

        One cycle: a linear rise over `warm_up`, then half a cosine down to zero (after L. Smith, N. Topin,
        "Super-Convergence", 2018).
        """
        if self.schedule == "constant":
            return self.learning_rate
        if self.schedule == "staged":
            return self._staged_rate_at(progress)
        if progress < self.warm_up:
            return self.learning_rate * progress / self.warm_up
        falling = (progress - self.warm_up) / (1 - self.warm_up)
        return self.learning_rate * (1 + math.cos(math.pi * falling)) / 2

    def _staged_rate_at(self, progress: float) -> float:
        ends = accumulate(stage.epochs for stage in self.stages)
        # A rounding error must not give an epoch's last step to the next stage.
        reached = progress * self.epochs - 1e-6
        return next(stage.learning_rate for stage, end in zip(self.stages, ends, strict=True) if reached < end)

    @model_validator(mode="after")
    def _require_stages_that_fit(self) -> Self:
        epochs = sum(stage.epochs for stage in self.stages)
        expected = self.epochs if self.schedule == "staged" else 0
        if epochs != expected:
            raise ValueError(
                f"the stages last {epochs} epochs together, a {self.schedule} schedule needs {expected}"
            )
        return self


def change_recipe(recipe: Recipe, changes: Mapping[str, object]) -> Recipe:
    """A recipe with some fields changed, and a name that says so.

    Raises:
        RecipeError: What comes out is no recipe.
    """
    changed = ", ".join(
        f"{name}={'+'.join(value) if isinstance(value, tuple) else value}" for name, value in changes.items()
    )
    try:
        return Recipe.model_validate(
            recipe.model_dump() | dict(changes) | {"name": f"{recipe.name} with {changed}"}
        )
    except ValidationError as error:
        raise RecipeError(f"{recipe.name} with {changed} is no recipe: {error.errors()[0]['msg']}") from error
