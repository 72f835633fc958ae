"""Train an ensemble: `python -m training.fit`."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import cast

from pydantic import Field, PrivateAttr, ValidationInfo, field_validator
from pydantic_settings import SettingsConfigDict
from rich.console import Console

from training.architectures import ARCHITECTURES
from training.command import COMMAND_CONFIG, TrainingCommand, run_command
from training.dataset import Dataset, is_on_plain_ground
from training.device import describe_device
from training.errors import RunError
from training.launch import jobs_of, require_all
from training.progress import Progress
from training.recipe import Recipe, change_recipe
from training.recipes import RECIPES, find_recipe
from training.report import write_report
from training.run import Run, require_space, require_unused, resume_command
from training.sources import load_dataset
from training.summary import summary_table

OVERRIDES = ("members", "epochs", "batch_images", "learning_rate", "flip", "strokes")
"""Fields of a recipe that the command line may change, beside its architectures."""


class FitSettings(TrainingCommand):
    """Train the members of an ensemble, each from its own seed; measure them and their average."""

    model_config = COMMAND_CONFIG | SettingsConfigDict(cli_prog_name="python -m training.fit")

    recipe: str | None = Field(
        None,
        description=f"How to train each member: {', '.join(RECIPES)}. "
        "By default `default` for grey strokes on a plain ground, such as digits, and `photographs` for all else.",
    )
    members: int | None = Field(None, ge=1, le=999)
    """How many members to train, instead of the recipe's."""
    seed: int = Field(1, ge=1, le=1_000_000)
    """Of the ensemble; member i of it draws from seed * 1000 + i."""
    run: Path = Path("runs/mnist")
    """New folder for checkpoints, metrics and summary."""
    resume: Path | None = None
    """Continue the run in this folder with the settings that it began with; its images may have moved to --data,
    and --processes, --launcher and --ray-address may be others: the weights are the same."""
    reseed: bool = False
    """With --resume: give members whose loss diverged a new seed, and train them again."""
    architecture: str | None = Field(None, description=f"Instead of the recipe's: {', '.join(ARCHITECTURES)}.")
    epochs: int | None = Field(None, ge=1)
    """Passes over the training images, instead of the recipe's."""
    batch_images: int | None = Field(None, ge=2)
    """Images a step, instead of the recipe's."""
    learning_rate: float | None = Field(None, gt=0, allow_inf_nan=False)
    """The highest of the training, instead of the recipe's."""
    flip: bool | None = None
    """Whether to mirror half of the training images; by default the recipe's, and photographs are mirrored unless
    they are on a plain ground, as signs are."""
    strokes: bool | None = None
    """Whether images are strokes on a plain ground, instead of the recipe's."""

    _begun: Path | None = PrivateAttr(None)

    @field_validator("recipe", "architecture")
    @classmethod
    def _require_known(cls, name: str | None, field: ValidationInfo) -> str | None:
        known = RECIPES if field.field_name == "recipe" else ARCHITECTURES
        if name is not None and name not in known:
            raise ValueError(f"no {field.field_name} has that name; there are {', '.join(known)}")
        return name

    @property
    def begun(self) -> Path | None:
        """The folder of the run that this command began, or continues."""
        return self.resume or self._begun

    def note_begun(self, run: Run) -> None:
        """Remember which folder there is to go on with."""
        self._begun = run.folder

    def choose_recipe(self, dataset: Dataset) -> Recipe:
        """The named recipe, or the one that fits the images, with what was given instead of its own.

        Raises:
            RecipeError: No recipe has that name, or what was given does not go with it.
        """
        is_plain, is_grey = is_on_plain_ground(dataset.train), dataset.image_shape[0] == 1
        recipe = find_recipe(self.recipe or ("default" if is_plain and is_grey else "photographs"))
        changes = {name: getattr(self, name) for name in OVERRIDES if getattr(self, name) is not None}
        if self.recipe is None and is_plain and recipe.flip:
            changes.setdefault("flip", False)
        if self.architecture:
            changes["architectures"] = (self.architecture,)
        return change_recipe(recipe, changes) if changes else recipe

    def conflicts_with_resume(self) -> list[str]:
        """Options that were given beside --resume although the run already fixes them."""
        fixed = self.model_fields_set - {"resume", "data", "processes", "launcher", "ray_address", "reseed"}
        return [f"--{name.replace('_', '-')}" for name in sorted(fixed)]


def main(arguments: list[str] | None = None) -> int:
    """Run the command; gives the process's exit code."""
    return run_command(FitSettings, arguments, fit, advice)


def advice(settings: FitSettings) -> str:
    """How to go on after an interruption; nothing if nothing was begun."""
    if (folder := settings.begun) is None:
        return ""
    return f" Continue with: {resume_command(folder)}"


def fit(settings: FitSettings, console: Console) -> None:
    """Begin or continue a run and bring it to its summary.

    Raises:
        TrainingError: Whatever stops it, with what to do about it.
    """
    run, dataset = _resume(settings) if settings.resume else _begin(settings, console)
    members = len(run.settings.seeds)
    if known := dataset.describe_known():
        console.print(known, soft_wrap=True, highlight=False)
    console.print(
        f"{run.folder}: {members} members of recipe {run.settings.recipe.name!r} on "
        f"{len(dataset.train):,} images of {'x'.join(map(str, dataset.image_shape))}"
        f"{', half of them mirrored' * run.settings.recipe.flip}, "
        f"{len(dataset.class_labels)} classes; {describe_device(run.settings.device)}, {run.settings.precision}"
        f"{', compiled' * run.settings.compiled}, threads of each member: {run.settings.threads}",
        soft_wrap=True,
        highlight=False,
    )
    require_space([run], dataset, then=f"continue with: {resume_command(run.folder)}")
    titles = {job: f"member {job.member} of {members}" for job in jobs_of(run)}
    with Progress(console, titles) as progress:
        diverged = settings.train(list(titles), dataset, progress)
    require_all(titles, diverged)
    console.print(summary_table(run.finish(dataset)))
    console.print(f"Report: {write_report(run, dataset)}", soft_wrap=True, highlight=False)
    console.print(
        f"Export it with: python -m export {shlex.quote(str(run.folder))} --name NAME --models models",
        soft_wrap=True,
    )


def _begin(settings: FitSettings, console: Console) -> tuple[Run, Dataset]:
    if settings.reseed:
        raise RunError("--reseed continues a run; name it with --resume")
    require_unused(settings.run)
    dataset = settings.load_dataset()
    recipe = settings.choose_recipe(dataset)
    seeds = recipe.member_seeds(settings.seed)
    run = settings.begin(settings.run, recipe, seeds, dataset, console, at_once=len(seeds))
    settings.note_begun(run)
    return run, dataset


def _resume(settings: FitSettings) -> tuple[Run, Dataset]:
    folder = cast(Path, settings.resume)
    if conflicts := settings.conflicts_with_resume():
        raise RunError(f"--resume takes its settings from {folder}; leave out {', '.join(conflicts)}")
    run = Run.open(folder)
    path = _images_of(run, settings)
    dataset = load_dataset(path, run.settings.image_side)
    run.require_same(dataset)
    run.move_data(path)
    if settings.reseed:
        run.reseed_diverged()
    return run, dataset


def _images_of(run: Run, settings: FitSettings) -> Path:
    """Where --data says, or the run read them, or, if they are there no more, where CONSORT_DATA says."""
    known, is_named, said = (
        run.settings.data_path,
        "data" in settings.model_fields_set,
        os.environ.get("CONSORT_DATA"),
    )
    is_flag = is_named and (said is None or settings.data != Path(said))
    return settings.data if is_flag or (is_named and not known.exists()) else known


if __name__ == "__main__":
    sys.exit(main())
