"""Train the lesson's ladder and set each rung beside the lesson's own figure: `python -m training.ladder`."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, Field, field_validator
from pydantic_settings import SettingsConfigDict
from rich.console import Console
from rich.table import Table

from training.command import COMMAND_CONFIG, TrainingCommand, run_command
from training.dataset import Dataset
from training.errors import RunError
from training.evaluation import Figures
from training.files import write_text_whole
from training.launch import jobs_of, require_all
from training.member import read_metrics
from training.plots import Measured, plot_ladder
from training.progress import Progress
from training.recipe import Recipe, change_recipe
from training.recipes import find_recipe
from training.run import SETTINGS_FILE, Run, require_space
from training.summary import Summary

TABLE_FILE = "ladder.json"
PLOT_FILE = "ladder.png"


@dataclass(frozen=True)
class Rung:
    """A step of the ladder.

    Attributes:
        recipe: Name of the recipe.
        title: What the rung adds to the one before it.
        lesson_test: Accuracy on the test images that the lesson's notebook printed last; None where it has no such
            rung.
        lesson_augmented: Whether those test images were distorted like the training images.
    """

    recipe: str
    title: str
    lesson_test: float | None
    lesson_augmented: bool = False


LADDER = (
    Rung("lesson-linear", "linear", 0.9240),
    Rung("lesson-dense", "one hidden layer", 0.9397),
    Rung("lesson-cnn", "CNN", 0.9926),
    Rung("lesson-cnn-augmented", "CNN + augmentation", 0.9919, lesson_augmented=True),
    Rung("lesson-batchnorm", "CNN + batchnorm", None),
    Rung("lesson-batchnorm-augmented", "CNN + both", 0.9945, lesson_augmented=True),
    Rung("lesson-dropout", "+ dropout", 0.9945, lesson_augmented=True),
    Rung("lesson", "six, averaged", 0.9969),
    Rung("lesson-staged", "one, rates as written", None),
)
NAMES = tuple(rung.recipe for rung in LADDER)


class RungResult(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """What a rung came to; one row of the table."""

    recipe: str
    title: str
    members: int
    parameters: int
    """Of all members."""
    multiply_adds: int
    """Of all members, for one image."""
    epochs: int
    """Of each member."""
    seconds: float
    """Of training, summed over the members."""
    train: Figures
    """Of several members at the fitted temperature, unlike the next two."""
    held_out: Figures
    test: Figures
    mean_member_test: float
    lesson_test: float | None
    lesson_augmented: bool

    @property
    def measured(self) -> Measured:
        """As a point of the plot."""
        interval = self.test.accuracy_interval
        return Measured(self.title, self.test.accuracy, interval, self.lesson_test, self.lesson_augmented)


class LadderSettings(TrainingCommand):
    """Train the lesson's ladder, from a linear model to six networks averaged; print and plot one table."""

    model_config = COMMAND_CONFIG | SettingsConfigDict(cli_prog_name="python -m training.ladder")

    run: Path = Path("runs/ladder")
    """Folder of all rungs; those that are begun there are continued, those that are finished are kept."""
    rungs: list[str] = Field(list(NAMES), min_length=1, description=f"Which to train: {', '.join(NAMES)}.")
    seed: int = Field(1, ge=1, le=1_000_000)
    """Of every rung; member i of it draws from seed * 1000 + i."""
    epochs: int | None = Field(None, ge=1)
    """Passes over the training images, instead of each recipe's; lesson-staged keeps its own."""

    def recipe_of(self, rung: Rung) -> Recipe:
        """The rung's recipe, with as many epochs as were asked for."""
        recipe = find_recipe(rung.recipe)
        if self.epochs is None or recipe.schedule == "staged":
            return recipe
        return change_recipe(recipe, {"epochs": self.epochs})

    @field_validator("rungs")
    @classmethod
    def _require_known(cls, rungs: list[str]) -> list[str]:
        if unknown := [rung for rung in rungs if rung not in NAMES]:
            raise ValueError(f"no rung is called {', '.join(unknown)}; there are {', '.join(NAMES)}")
        return rungs


def main(arguments: list[str] | None = None) -> int:
    """Run the command; gives the process's exit code."""
    return run_command(LadderSettings, arguments, climb, lambda _: " Go on with the same command.")


def climb(settings: LadderSettings, console: Console) -> None:
    """Train the rungs that are not trained yet, then print, plot and keep the table.

    Raises:
        TrainingError: Whatever stops it, with what to do about it.
    """
    dataset = settings.load_dataset()
    rungs = [rung for rung in LADDER if rung.recipe in settings.rungs]
    recipes = [settings.recipe_of(rung) for rung in rungs]
    runs = [_begin_or_continue(*pair, settings, dataset, console) for pair in zip(rungs, recipes, strict=True)]
    if unfinished := [run for run in runs if not run.is_finished]:
        require_space(unfinished, dataset, then="go on with the same command")
    titles = {
        job: f"{rung.recipe}, member {job.member} of {run.settings.recipe.members}"
        for rung, run in zip(rungs, runs, strict=True)
        for job in jobs_of(run)
    }
    with Progress(console, titles) as progress:
        diverged = settings.train(list(titles), dataset, progress)
    require_all(titles, diverged)
    summaries = [run.read_summary() if run.is_finished else run.finish(dataset) for run in runs]
    results = [describe(*parts) for parts in zip(rungs, runs, summaries, strict=True)]
    table = [result.model_dump(mode="json") for result in results]
    write_text_whole(settings.run / TABLE_FILE, json.dumps(table, indent=2) + "\n")
    plot_ladder([result.measured for result in results]).savefig(settings.run / PLOT_FILE)
    console.print(ladder_table(results))
    console.print(
        f"Also in {settings.run / TABLE_FILE} and, as a plot, {settings.run / PLOT_FILE}", soft_wrap=True
    )


def describe(rung: Rung, run: Run, summary: Summary) -> RungResult:
    """The row of a trained rung; a rung of one member is judged by that member."""
    ensemble, members = summary.ensemble, summary.members
    return RungResult(
        recipe=rung.recipe,
        title=rung.title,
        members=len(members),
        parameters=sum(member.parameters for member in members),
        multiply_adds=sum(member.multiply_adds for member in members),
        epochs=run.settings.recipe.epochs,
        seconds=sum(
            epoch.seconds for member in run.settings.members for epoch in read_metrics(run.member_folder(member))
        ),
        train=ensemble.train if len(members) > 1 else members[0].train,
        held_out=ensemble.held_out_uncalibrated,
        test=ensemble.test_uncalibrated,
        mean_member_test=statistics.mean(member.test.accuracy for member in members),
        lesson_test=rung.lesson_test,
        lesson_augmented=rung.lesson_augmented,
    )


def ladder_table(results: Sequence[RungResult]) -> Table:
    """A row a rung."""
    table = Table(title="Test images looked at once a rung; * on distorted test images", title_justify="left")
    accuracies = ("train", "held-out", "test", "95 % interval", "lesson")
    for heading in ("rung", "parameters", "multiply-adds", "epochs", *accuracies):
        table.add_column(heading, justify="left" if heading == "rung" else "right", no_wrap=True)
    for result in results:
        low, high = result.test.accuracy_interval
        lesson = "" if result.lesson_test is None else f"{result.lesson_test:.2%}"
        table.add_row(
            result.title,
            f"{result.parameters:,}",
            f"{result.multiply_adds / 1e6:.2f} M",
            str(result.epochs),
            f"{result.train.accuracy:.2%}",
            f"{result.held_out.accuracy:.2%}",
            f"{result.test.accuracy:.2%}",
            f"{100 * low:.2f} to {100 * high:.2f} %",
            lesson + ("*" if result.lesson_augmented else ""),
        )
    return table


def _begin_or_continue(
    rung: Rung, recipe: Recipe, settings: LadderSettings, dataset: Dataset, console: Console
) -> Run:
    folder = settings.run / rung.recipe
    if not (folder / SETTINGS_FILE).exists():
        at_once = sum(find_recipe(name).members for name in settings.rungs)
        seeds = recipe.member_seeds(settings.seed)
        return settings.begin(folder, recipe, seeds, dataset, console, at_once=at_once)
    run = Run.open(folder)
    run.require_same(dataset)
    run.move_data(settings.data)
    begun = run.settings
    if begun.recipe != recipe:
        raise RunError(f"{folder} was begun by recipe {begun.recipe.name!r}, not {recipe.name!r} as it is now")
    if min(begun.seeds) // 1000 != settings.seed:
        raise RunError(f"{folder} was begun with --seed {min(begun.seeds) // 1000}; choose another --run")
    if settings.device not in ("auto", begun.device):
        raise RunError(f"{folder} was begun on {begun.device}; choose another --run")
    if settings.threads not in (None, begun.threads):
        raise RunError(f"{folder} was begun with --threads {begun.threads}; choose another --run")
    if settings.precision not in ("auto", begun.precision):
        raise RunError(f"{folder} was begun in {begun.precision}; choose another --run")
    if settings.compile not in (None, begun.compiled):
        raise RunError(
            f"{folder} was begun with {'--compile' if begun.compiled else '--no-compile'}; choose another --run"
        )
    return run


if __name__ == "__main__":
    sys.exit(main())
