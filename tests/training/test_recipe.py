"""Recipes name real architectures and move the learning rate as they say."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from training.architectures import ARCHITECTURES
from training.errors import RecipeError
from training.recipe import RECIPES, Recipe, find_recipe


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains_an_architecture_that_exists(name: str) -> None:
    assert find_recipe(name).name == name
    assert find_recipe(name).architecture in ARCHITECTURES


def test_an_unknown_recipe_is_refused_with_the_known_ones() -> None:
    with pytest.raises(RecipeError, match="'best'; there are default, photographs, lesson"):
        find_recipe("best")


def test_a_constant_rate_is_constant() -> None:
    recipe = Recipe(name="r", architecture="cnn", epochs=1, learning_rate=0.3)
    assert {recipe.learning_rate_at(progress / 10) for progress in range(11)} == {0.3}


@pytest.mark.parametrize(("progress", "rate"), [(0.0, 0.0), (0.1, 0.2), (0.2, 0.4), (0.6, 0.2), (1.0, 0.0)])
def test_one_cycle_rises_in_a_line_and_falls_in_a_cosine(progress: float, rate: float) -> None:
    recipe = Recipe(name="r", architecture="cnn", epochs=1, learning_rate=0.4, schedule="one_cycle", warm_up=0.2)
    assert recipe.learning_rate_at(progress) == pytest.approx(rate)


@pytest.mark.parametrize("bad", [{"epochs": 0}, {"batch_images": 1}, {"average_decay": 1.0}, {"momentum": 0.9}])
def test_impossible_recipes_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Recipe.model_validate({"name": "r", "architecture": "cnn", "epochs": 1} | bad)
