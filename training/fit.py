"""Train an ensemble: `python -m training.fit`."""

from __future__ import annotations

import shlex
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any, Literal, NoReturn, cast

import torch
from pydantic import Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from rich.console import Console

from training.architectures import ARCHITECTURES
from training.dataset import Dataset, is_on_plain_ground
from training.errors import RunError, TrainingError
from training.member import Plan, bytes_on_disk, require_trainable, train_member
from training.precision import WORTH_IT, measure_speedup
from training.progress import RunProgress, summary_table
from training.recipe import RECIPES, Recipe, find_recipe
from training.run import SETTINGS_FILE, Run, RunSettings, summarize, tool_versions
from training.sources import load_dataset

OVERRIDES = ("architecture", "epochs", "batch_images", "flip", "strokes")
"""Fields of a recipe that the command line may change."""
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


class FitSettings(BaseSettings):
    """Train the members of an ensemble, each from its own seed; measure them and their average."""

    model_config = SettingsConfigDict(
        env_prefix="CONSORT_",
        frozen=True,
        use_attribute_docstrings=True,
        cli_prog_name="python -m training.fit",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_parse_none_str="none",
    )

    recipe: str | None = Field(
        None,
        description=f"How to train each member: {', '.join(RECIPES)}. "
        "By default `default` for strokes on a plain ground, such as digits, and `photographs` for all else.",
    )
    members: int = Field(6, ge=1, le=999)
    """How many members to train."""
    seed: int = Field(1, ge=1, le=1_000_000)
    """Of the ensemble; member i of it draws from seed * 1000 + i."""
    data: Path = Path("data/mnist")
    """Images: a folder with one subfolder a class, a folder of IDX files, or an NPZ file; also CONSORT_DATA."""
    download_mnist: bool | None = None
    """Fetch MNIST into an empty or missing --data folder; by default only into data/mnist."""
    image_side: int | None = Field(None, ge=2, le=1024)
    """Height and width that image files are resized to; by default their own if all are alike, or else 32."""
    run: Path = Path("runs/mnist")
    """New folder for checkpoints, metrics and summary."""
    resume: Path | None = None
    """Continue the run in this folder with the settings that it began with; only --data may have moved."""
    architecture: str | None = Field(None, description=f"Instead of the recipe's: {', '.join(ARCHITECTURES)}.")
    epochs: int | None = Field(None, ge=1)
    """Passes over the training images, instead of the recipe's."""
    batch_images: int | None = Field(None, ge=2)
    """Images a step, instead of the recipe's."""
    flip: bool | None = None
    """Whether to mirror half of the training images, instead of the recipe's."""
    strokes: bool | None = None
    """Whether images are strokes on a plain ground, instead of the recipe's."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """What to compute in while learning; auto times a few steps of both and takes bfloat16 where that is clearly
    faster. Name one where two runs must agree bit for bit."""
    threads: int | None = Field(None, ge=1)
    """Processor threads; by default as many as torch finds cores."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """From the environment comes the place of the data alone: the server's variables mean other things."""
        return init_settings, _DataFromEnvironment(settings_cls)

    def load_dataset(self) -> Dataset:
        """The images that the settings name.

        Raises:
            DataError: They cannot be trained on.
        """
        download = "data" not in self.model_fields_set if self.download_mnist is None else self.download_mnist
        return load_dataset(self.data, self.image_side, download)

    def member_seeds(self) -> tuple[int, ...]:
        """One a member; ensembles of different seeds share none."""
        return tuple(self.seed * 1000 + member for member in range(1, self.members + 1))

    def choose_recipe(self, dataset: Dataset) -> Recipe:
        """The named recipe, or the one that fits the images, with what was given instead of its own.

        Raises:
            RecipeError: No recipe has that name.
        """
        fitting = "default" if is_on_plain_ground(dataset.train) else "photographs"
        recipe = find_recipe(self.recipe or fitting)
        changes = {name: getattr(self, name) for name in OVERRIDES if getattr(self, name) is not None}
        if not changes:
            return recipe
        changed = ", ".join(f"{name}={value}" for name, value in changes.items())
        return recipe.model_copy(update={**changes, "name": f"{recipe.name} with {changed}"})

    def conflicts_with_resume(self) -> list[str]:
        """Options that were given beside --resume although the run already fixes them."""
        fixed = self.model_fields_set - {"resume", "data"}
        return [f"--{name.replace('_', '-')}" for name in sorted(fixed)]


class _DataFromEnvironment(EnvSettingsSource):
    """CONSORT_DATA, and no other variable."""

    def __call__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__call__().items() if name == "data"}


def main(arguments: list[str] | None = None) -> int:
    """Run the command; gives the process's exit code."""
    console = Console()
    try:
        settings = FitSettings(_cli_parse_args=sys.argv[1:] if arguments is None else arguments)
    except ValidationError as error:
        for problem in error.errors():
            flag = "--" + "-".join(str(part) for part in problem["loc"])
            print(f"{flag}: {problem['msg']}, got {problem['input']!r}", file=sys.stderr)
        return EXIT_USAGE
    signal.signal(signal.SIGTERM, _interrupt)
    folder = settings.resume or settings.run
    try:
        fit(settings, console)
    except KeyboardInterrupt:
        print(f"Interrupted.{_advice(folder)}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except OSError as error:
        print(f"{error}.{_advice(folder)}", file=sys.stderr)
        return EXIT_FAILED
    except TrainingError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return EXIT_FAILED
    return 0


def fit(settings: FitSettings, console: Console) -> None:
    """Begin or continue a run and bring it to its summary.

    Raises:
        TrainingError: Whatever stops it, with what to do about it.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    run, dataset = _resume(settings) if settings.resume else _begin(settings, console)
    console.print(
        f"{run.folder}: {len(run.settings.seeds)} members of recipe {run.settings.recipe.name!r} on "
        f"{len(dataset.train):,} images of {'x'.join(map(str, dataset.image_shape))}, "
        f"{len(dataset.class_labels)} classes, {run.settings.precision}, {run.settings.threads} threads",
        soft_wrap=True,
    )
    with RunProgress(console, len(run.settings.seeds)) as progress:
        for member, seed in enumerate(run.settings.seeds, start=1):
            progress.begin_member(member)
            train_member(run.settings.plan(seed), dataset, run.member_folder(member), progress)
    summary = summarize(run.load_members(), dataset)
    run.write_summary(summary)
    console.print(summary_table(summary))
    console.print(f"Export it with: python -m export {run.folder} --name NAME --models models", soft_wrap=True)


def _advice(folder: Path) -> str:
    begun = (folder / SETTINGS_FILE).exists()
    return f" Continue with: python -m training.fit --resume {shlex.quote(str(folder))}" if begun else ""


def _begin(settings: FitSettings, console: Console) -> tuple[Run, Dataset]:
    dataset = settings.load_dataset()
    recipe, seeds = settings.choose_recipe(dataset), settings.member_seeds()
    require_trainable(Plan(recipe, seeds[0], torch.float32), dataset)
    resolved = RunSettings(
        recipe=recipe,
        seeds=seeds,
        precision=_choose_precision(settings, recipe, dataset, console),
        threads=torch.get_num_threads(),
        class_labels=dataset.class_labels,
        image_shape=dataset.image_shape,
        data=dataset.name,
        data_path=settings.data.resolve(),
        image_side=settings.image_side,
        data_sha256=dataset.digest(),
        tools=tool_versions(),
    )
    run = Run.create(settings.run, resolved)
    run.require_space(len(seeds) * bytes_on_disk(resolved.plan(seeds[0]), dataset))
    return run, dataset


def _choose_precision(
    settings: FitSettings, recipe: Recipe, dataset: Dataset, console: Console
) -> Literal["float32", "bfloat16"]:
    if settings.precision != "auto":
        return settings.precision
    speedup = measure_speedup(Plan(recipe, 0, torch.float32), dataset)
    chosen: Literal["float32", "bfloat16"] = "bfloat16" if speedup >= WORTH_IT else "float32"
    console.print(
        f"bfloat16 is {speedup:.1f} times as fast as float32 here; training in {chosen}", highlight=False
    )
    return chosen


def _resume(settings: FitSettings) -> tuple[Run, Dataset]:
    folder = cast(Path, settings.resume)
    if conflicts := settings.conflicts_with_resume():
        raise RunError(f"--resume takes its settings from {folder}; leave out {', '.join(conflicts)}")
    run = Run.open(folder)
    path = settings.data if "data" in settings.model_fields_set else run.settings.data_path
    dataset = load_dataset(path, run.settings.image_side)
    if run.settings.data_sha256 != dataset.digest():
        raise RunError(f"the images in {path} are not those that {folder} began with")
    torch.set_num_threads(run.settings.threads)
    return run, dataset


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
