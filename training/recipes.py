"""The recipes that ship, by name: three to train by, and the rungs of the lesson's ladder."""

from __future__ import annotations

from training.augmentation import Affine
from training.errors import RecipeError
from training.recipe import Recipe, Stage

LESSON_DISTORTION = Affine(rotation_degrees=8, shift=0.08, shear_radians=0.3, zoom=0.08, interpolation="nearest")
MODERATE = Affine(rotation_degrees=12, shift=0.08, shear_radians=0.2, zoom=0.12)
STRONG = Affine(rotation_degrees=15, shift=0.1, shear_radians=0.3, zoom=0.15)


def _of_lesson(
    name: str,
    architecture: str,
    epochs: int,
    affine: Affine = LESSON_DISTORTION,
    members: int = 1,
    average_decay: float = 0.999,
) -> Recipe:
    """As the lesson's library trained in fact: Adam at a constant 1e-3, batches of 64; see docs/training.md.

    Rungs that are judged by one network average its weights over the last thousand steps: at a constant rate, a
    rung would otherwise be as good as its last few steps happened to be.
    """
    return Recipe(
        name=name,
        architectures=(architecture,),
        members=members,
        epochs=epochs,
        batch_images=64,
        average_decay=average_decay,
        affines=(affine,),
        strokes=False,
    )


def _of_digits(
    name: str, members: int, epochs: int, architectures: tuple[str, ...], affines: tuple[Affine, ...]
) -> Recipe:
    return Recipe(
        name=name,
        architectures=architectures,
        members=members,
        epochs=epochs,
        batch_images=64,
        learning_rate=3e-3,
        schedule="one_cycle",
        weight_decay=0.02,
        average_decay=0.999,
        affines=affines,
    )


RECIPES = {
    recipe.name: recipe
    for recipe in (
        # Three networks and two distortions, each in turn: no two of six members learn alike.
        _of_digits("default", 6, 24, ("cnn_slim", "cnn_7x7", "cnn_padded"), (MODERATE, STRONG)),
        _of_digits("small", 3, 16, ("cnn_small",), (MODERATE,)),
        Recipe(
            name="photographs",
            architectures=("cnn_blocks",),
            epochs=30,
            batch_images=64,
            learning_rate=3e-3,
            schedule="one_cycle",
            weight_decay=0.05,
            average_decay=0.998,
            affines=(Affine(rotation_degrees=8, shift=0.1, shear_radians=0.1, zoom=0.1),),
            flip=True,
            strokes=False,
        ),
        _of_lesson("lesson-linear", "linear", 6, Affine()),
        _of_lesson("lesson-dense", "dense", 9, Affine()),
        _of_lesson("lesson-cnn", "cnn", 10, Affine()),
        _of_lesson("lesson-cnn-augmented", "cnn", 20),
        _of_lesson("lesson-batchnorm", "cnn_bn", 10, Affine()),
        _of_lesson("lesson-batchnorm-augmented", "cnn_bn", 20),
        _of_lesson("lesson-dropout", "cnn_bn_dropout", 18),
        _of_lesson("lesson", "cnn_bn_dropout", 35, members=6, average_decay=0.0),
        Recipe(
            name="lesson-staged",
            architectures=("cnn_bn_dropout",),
            members=1,
            epochs=35,
            batch_images=64,
            schedule="staged",
            stages=(
                Stage(epochs=1, learning_rate=1e-3),
                Stage(epochs=4, learning_rate=0.1),
                Stage(epochs=12, learning_rate=0.01),
                Stage(epochs=18, learning_rate=0.001),
            ),
            affines=(LESSON_DISTORTION,),
            strokes=False,
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
