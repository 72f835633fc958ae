"""Recipes name real architectures and move the learning rate as they say."""

from __future__ import annotations

import itertools

import pytest
from pydantic import ValidationError

from training.architectures import ARCHITECTURES, PixelStatistics, build_network, count_multiply_adds
from training.errors import RecipeError
from training.recipe import Recipe, change_recipe
from training.recipes import RECIPES, find_recipe


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains_an_architecture_that_exists(name: str) -> None:
    assert find_recipe(name).name == name
    assert set(find_recipe(name).architectures) <= set(ARCHITECTURES)


@pytest.mark.parametrize("name", ["lesson", "lesson-staged"])
def test_the_lessons_ensemble_is_trained_with_nothing_that_the_lesson_did_not_have(name: str) -> None:
    """Plain Adam, last weights, hard labels, pixels as they are; only rungs of one network average weights."""
    recipe = find_recipe(name)
    assert (recipe.average_decay, recipe.weight_decay, recipe.label_smoothing) == (0, 0, 0)
    assert not recipe.strokes
    assert not recipe.flip
    assert find_recipe("lesson-dropout").average_decay > 0


@pytest.mark.parametrize(("name", "most"), [("default", 60e6), ("small", 6e6)])
def test_an_ensemble_costs_no_more_than_it_may(name: str, most: float) -> None:
    """Multiply-adds of all members for one image."""
    recipe = find_recipe(name)
    shape, statistics = (1, 28, 28), PixelStatistics((33.0,), (78.0,))
    costs = {
        architecture: count_multiply_adds(build_network(architecture, shape, 10, statistics, strokes=True), shape)
        for architecture in recipe.architectures
    }
    in_turn = itertools.islice(itertools.cycle(recipe.architectures), recipe.members)
    assert sum(costs[architecture] for architecture in in_turn) <= most


def test_ensembles_of_different_seeds_share_no_member() -> None:
    recipe = Recipe(name="r", architectures=("cnn",), members=3, epochs=1)
    assert recipe.member_seeds(1) == (1001, 1002, 1003)
    assert recipe.member_seeds(2) == (2001, 2002, 2003)


def test_an_unknown_recipe_is_refused_with_the_known_ones() -> None:
    with pytest.raises(RecipeError, match="'best'; there are default, small, photographs, lesson"):
        find_recipe("best")


def test_a_constant_rate_is_constant() -> None:
    recipe = Recipe(name="r", architectures=("cnn",), epochs=1, learning_rate=0.3)
    assert {recipe.learning_rate_at(progress / 10) for progress in range(11)} == {0.3}


@pytest.mark.parametrize(("progress", "rate"), [(0.0, 0.0), (0.1, 0.2), (0.2, 0.4), (0.6, 0.2), (1.0, 0.0)])
def test_one_cycle_rises_in_a_line_and_falls_in_a_cosine(progress: float, rate: float) -> None:
    recipe = Recipe(
        name="r", architectures=("cnn",), epochs=1, learning_rate=0.4, schedule="one_cycle", warm_up=0.2
    )
    assert recipe.learning_rate_at(progress) == pytest.approx(rate)


@pytest.mark.parametrize("bad", [{"epochs": 0}, {"batch_images": 1}, {"average_decay": 1.0}, {"momentum": 0.9}])
def test_impossible_recipes_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Recipe.model_validate({"name": "r", "architectures": ("cnn",), "epochs": 1} | bad)


def test_stages_give_each_epoch_its_rate_to_the_last_step() -> None:
    recipe = find_recipe("lesson-staged")
    steps = 859
    rates = [
        {recipe.learning_rate_at((epoch * steps + step) / (recipe.epochs * steps)) for step in (1, 400, steps)}
        for epoch in range(recipe.epochs)
    ]
    assert rates == [{1e-3}] + 4 * [{0.1}] + 12 * [{0.01}] + 18 * [{0.001}]


def test_stages_must_last_as_long_as_the_recipe() -> None:
    with pytest.raises(RecipeError, match="the stages last 35 epochs together, a staged schedule needs 12"):
        change_recipe(find_recipe("lesson-staged"), {"epochs": 12})
    with pytest.raises(RecipeError, match="a constant schedule needs 0"):
        change_recipe(find_recipe("lesson-staged"), {"schedule": "constant"})
