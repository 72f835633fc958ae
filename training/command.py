"""What the commands of this package share: common options, how they are read, and how a command fails."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar, Literal, NoReturn, TypeVar, cast

import torch
from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from pydantic_settings.exceptions import SettingsError
from rich.console import Console

from machine.cores import available_cores
from training.dataset import Dataset
from training.device import choose_device, most_at_once, require_compiler, threads_of_each
from training.errors import RunError, TrainingError
from training.launch import Gathering, Job, train
from training.learner import Plan
from training.member import steps_an_epoch
from training.precision import choose_precision
from training.recipe import Recipe
from training.run import Run, RunSettings
from training.sources import load_dataset

CORES = min(torch.get_num_threads(), available_cores())
"""As many as torch finds for this process, before it is told otherwise, and a container's quota allows."""
FILE_COLUMNS = 130
"""Width of a table where there is no terminal to ask."""
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

COMMAND_CONFIG = SettingsConfigDict(
    env_prefix="CONSORT_",
    frozen=True,
    use_attribute_docstrings=True,
    cli_kebab_case=True,
    cli_implicit_flags=True,
    cli_hide_none_type=True,
    cli_parse_none_str="none",
)


class Command(BaseSettings):
    """Options of a command, from its flags, and from the environment those that `FROM_ENVIRONMENT` names."""

    model_config = COMMAND_CONFIG
    FROM_ENVIRONMENT: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """No other variable: the server's mean other things."""
        return init_settings, _FromEnvironment(settings_cls)


class TrainingCommand(Command):
    """Options of a command that trains; the place of the data may also come from the environment."""

    FROM_ENVIRONMENT = frozenset({"data"})

    data: Path = Path("data/mnist")
    """Images: a folder with one subfolder a class, a folder of IDX files, or an NPZ file; also CONSORT_DATA."""
    download_mnist: bool | None = None
    """Fetch MNIST into a --data folder that is empty or missing, or lacks some of its files; by default only into
    data/mnist."""
    image_side: int | None = Field(None, ge=2, le=1024)
    """Height and width that image files are resized to; by default their own if all are alike and at most 64, or
    else 32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where members learn; auto takes a GPU where torch sees one. What is named and is not there is an error. Name
    one where two runs must agree bit for bit."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """What to compute in while learning; auto times a few steps of both and takes bfloat16 where that is clearly
    faster. Name one where two runs must agree bit for bit."""
    compile: bool | None = None
    """Compile the networks' passes with torch.compile; on a GPU, also replay them as CUDA graphs. Needs a C++
    compiler, and 10 to 30 seconds a member before its first step, and twice as long before the run where the
    precision is tried; on processors slower than plain steps, which are the default."""
    processes: int | None = Field(None, ge=1)
    """Members that learn at the same time, each in a process of its own; by default as many as there are cores,
    and on a GPU eight at most. With Ray, which has as many learn as there is room for: among how many the cores
    are shared out."""
    threads: int | None = Field(None, ge=1)
    """Processor threads of each member; by default the cores shared out among the processes, and on a GPU one."""

    launcher: Literal["processes", "ray"] = "processes"
    """Where members learn: in processes of this machine, or as tasks of a Ray cluster (the extra `ray`)."""
    ray_address: str | None = None
    """Of the cluster, for example `auto` on one of its machines; by default a new one on this machine alone."""

    @field_validator("ray_address")
    @classmethod
    def _require_ray(cls, address: str | None, info: ValidationInfo) -> str | None:
        if address is not None and info.data.get("launcher") != "ray":
            raise ValueError("needs --launcher ray")
        return address

    @field_validator("data", "run", check_fields=False)
    @classmethod
    def _require_text(cls, path: Path) -> Path:
        try:
            str(path).encode()
        except UnicodeEncodeError as error:
            raise ValueError("no UTF-8 text, which is what a run's files are") from error
        return path

    def load_dataset(self) -> Dataset:
        """The images that the settings name.

        Raises:
            DataError: They cannot be trained on.
        """
        download = "data" not in self.model_fields_set if self.download_mnist is None else self.download_mnist
        return load_dataset(self.data, self.image_side, download)

    def begin(
        self,
        folder: Path,
        recipe: Recipe,
        seeds: tuple[int, ...],
        dataset: Dataset,
        console: Console,
        *,
        at_once: int,
    ) -> Run:
        """Settle all that decides what a run comes to, and make its folder.

        The cores are shared out among `at_once` members, of this run and of those that are trained beside it.

        Raises:
            DeviceError: The device that was asked for is not there, or nothing can be compiled for it.
            RecipeError: The recipe does not fit the images.
            RunError: The folder is in use or cannot be written.
        """
        device = choose_device(self.device)
        threads = self.threads or threads_of_each(device, CORES, self.processes or at_once)
        steps_an_epoch(dataset.train, recipe)  # trying a precision takes a whole batch
        if self.compile:
            require_compiler(device)
        trial = Plan(recipe, 1, 0, torch.float32, device, bool(self.compile))
        precision = choose_precision(self.precision, trial, threads, dataset, console)
        settings = RunSettings.of(
            recipe,
            seeds,
            dataset,
            device=device,
            precision=precision,
            compiled=bool(self.compile),
            threads=threads,
            data_path=self.data,
            image_side=self.image_side,
        )
        return Run.create(folder, settings)

    def train(self, jobs: Sequence[Job], dataset: Dataset, gathering: Gathering) -> dict[Job, str]:
        """Train members where the settings say; gives why members were stopped, for those whose loss diverged.

        Raises:
            TrainingError: Whatever else stops the training.
        """
        if not jobs:
            return {}
        if self.launcher == "processes":
            settings = [Run.open(job.run).settings for job in jobs]
            for device in {one.device for one in settings if one.compiled}:
                require_compiler(device)
            threads = max(one.threads for one in settings)
            at_once = min(most_at_once(one.device, CORES, threads) for one in settings)
            return train(jobs, dataset, self.processes or min(len(jobs), at_once), gathering)
        try:
            from training.cluster import train_on_ray  # noqa: PLC0415  an extra, which most do not need
        except ImportError as error:
            raise RunError("--launcher ray needs Ray; install Consort with the extra `ray`") from error
        return train_on_ray(jobs, dataset, self.ray_address, gathering)


class _FromEnvironment(EnvSettingsSource):
    """The variables that a command names."""

    def __call__(self) -> dict[str, Any]:
        names = cast(type[Command], self.settings_cls).FROM_ENVIRONMENT
        return {name: value for name, value in super().__call__().items() if name in names}


C = TypeVar("C", bound=Command)


def run_command(
    settings_class: type[C],
    arguments: list[str] | None,
    action: Callable[[C, Console], None],
    advice: Callable[[C], str] = lambda _: "",
    failures: type[Exception] | tuple[type[Exception], ...] = TrainingError,
) -> int:
    """Read a command's options, do what it does, and say in one line what stopped it.

    Args:
        settings_class: The command's options.
        arguments: Of the command; None takes those of the process.
        action: What it does.
        advice: How to go on after it was interrupted or a disk failed.
        failures: What is said by the name of its class and its message.

    Returns:
        The process's exit code.
    """
    try:
        settings = settings_class(_cli_parse_args=sys.argv[1:] if arguments is None else arguments)
    except ValidationError as error:
        for problem in error.errors():
            flag = "--" + "-".join(str(part) for part in problem["loc"]).replace("_", "-")
            print(f"{flag}: {problem['msg']}, got {problem['input']!r}", file=sys.stderr)
        return EXIT_USAGE
    except SettingsError as error:  # what a list was expected of is none
        print(error, file=sys.stderr)
        return EXIT_USAGE
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        action(
            settings, Console(markup=False) if sys.stdout.isatty() else Console(width=FILE_COLUMNS, markup=False)
        )
    except KeyboardInterrupt:
        print(f"Interrupted.{advice(settings)}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except OSError as error:
        print(f"{error}.{advice(settings)}", file=sys.stderr)
        return EXIT_FAILED
    except failures as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return EXIT_FAILED
    return 0


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
