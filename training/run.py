"""A run: members of one recipe trained on one data set, and the folder that holds all of it.

- `settings.json`: what was asked for, resolved: recipe, seeds, data, device, precision, tool versions.
- `member-1/metrics.jsonl`: one line an epoch; `member-1/checkpoint.safetensors`: the trained member; and so on.
- `predictions.safetensors`: what each member says of every image that it was measured on.
- `summary.json`: how good each member and their average are.
"""

from __future__ import annotations

import platform
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
from pydantic import BaseModel, Field, ValidationError

from machine.cores import available_cores
from training.architectures import Network
from training.checkpoint import CheckpointHeader, load_checkpoint
from training.dataset import Dataset
from training.device import DeviceName
from training.errors import RunError
from training.files import UNFINISHED, write_text_whole
from training.learner import Plan
from training.member import CHECKPOINT_FILE, DIVERGED_FILE, bytes_on_disk, require_trainable
from training.precision import Precision
from training.recipe import Recipe
from training.summary import Predictions, Summary, summarize

SETTINGS_FILE = "settings.json"
SUMMARY_FILE = "summary.json"
PREDICTIONS_FILE = "predictions.safetensors"
REPORT_BYTES = 10_000_000
"""For the report and its plots, which take less than a megabyte with ten classes."""


class RunSettings(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """Everything that decides what a run comes to."""

    recipe: Recipe
    """How each member is trained."""
    seeds: tuple[int, ...] = Field(min_length=1)
    """One a member."""
    device: DeviceName = "cpu"
    """Where the members learn: which decides the last digits, and so the weights."""
    precision: Precision
    """What convolutions and dense layers computed in while learning."""
    compiled: bool = False
    """Whether the networks' passes were compiled, which decides the last digits too."""
    threads: int
    """Of the process; the same result bit for bit needs the same number."""
    class_labels: tuple[str, ...]
    """In the order of the network's outputs."""
    image_shape: tuple[int, int, int]
    """Channels, height, width."""
    data: str
    """What the images are."""
    data_path: Path
    """Where they were read from."""
    image_side: int | None
    """Height and width that image files were resized to, if that was asked for."""
    data_sha256: str
    """`Dataset.digest` of all three parts."""
    tools: dict[str, str]
    """Versions of what trained it."""

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        seeds: tuple[int, ...],
        dataset: Dataset,
        *,
        device: DeviceName,
        precision: Precision,
        compiled: bool,
        threads: int,
        data_path: Path,
        image_side: int | None,
    ) -> Self:
        """Settle everything that a run on these images depends on.

        Raises:
            RecipeError: The recipe names no architecture, or its batches or networks do not fit the images.
        """
        settings = cls(
            recipe=recipe,
            seeds=seeds,
            device=device,
            precision=precision,
            compiled=compiled,
            threads=threads,
            class_labels=dataset.class_labels,
            image_shape=dataset.image_shape,
            data=dataset.name,
            data_path=data_path.resolve(),
            image_side=image_side,
            data_sha256=dataset.digest(),
            tools=tool_versions(),
        )
        for member in settings.unlike_members:
            require_trainable(settings.plan(member), dataset)
        return settings

    @property
    def members(self) -> range:
        """Numbers of the members, from 1."""
        return range(1, len(self.seeds) + 1)

    @property
    def unlike_members(self) -> range:
        """The first members, up to where networks come again."""
        return self.members[: len(self.recipe.architectures)]

    def require_same_tools(self) -> None:
        """Find out whether what trains here is what the run began with; others give other last digits.

        Raises:
            RunError: It is not.
        """
        if (tools := tool_versions()) != self.tools:
            raise RunError(
                f"members not yet trained need {_listed(self.tools)}, which the run began with; here are "
                f"{_listed(tools)}. Install those, or begin another run"
            )

    def plan(self, member: int) -> Plan:
        """What to train as member `member`, counted from 1."""
        return Plan(
            self.recipe,
            member,
            self.seeds[member - 1],
            {"float32": torch.float32, "bfloat16": torch.bfloat16}[self.precision],
            self.device,
            self.compiled,
        )


class Run:
    """A run's folder. Members count from 1."""

    def __init__(self, folder: Path, settings: RunSettings) -> None:
        self.folder = folder
        self.settings = settings

    @classmethod
    def create(cls, folder: Path, settings: RunSettings) -> Run:
        """Begin a run in a new or empty folder.

        Raises:
            RunError: The folder is in use or cannot be written.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            require_unused(folder)
            write_text_whole(folder / SETTINGS_FILE, settings.model_dump_json(indent=2) + "\n")
        except OSError as error:
            raise RunError(f"{folder} cannot be written: {error}") from error
        return cls(folder, settings)

    @classmethod
    def open(cls, folder: Path) -> Run:
        """Take up a run that exists.

        Raises:
            RunError: The folder holds no run.
        """
        try:
            return cls(folder, RunSettings.model_validate_json((folder / SETTINGS_FILE).read_bytes()))
        except OSError as error:
            raise RunError(f"{folder} holds no run: {error}") from error
        except ValidationError as error:
            raise RunError(f"{folder / SETTINGS_FILE} is damaged: {_first(error)}") from error

    def member_folder(self, member: int) -> Path:
        """Where member `member`, counted from 1, is kept."""
        return self.folder / f"member-{member}"

    def move_data(self, path: Path) -> None:
        """Note that the same images are to be read from another place now."""
        self._change_settings(data_path=path.resolve())

    def reseed_diverged(self) -> None:
        """Give each member that diverged a seed which no member has had, and forget what it learned."""
        seeds = list(self.settings.seeds)
        for member in self.settings.members:
            if (self.member_folder(member) / DIVERGED_FILE).exists():
                seeds[member - 1] = max(seeds) + 1
                # The seed first and the mark last: after a crash in between, the member gets yet another seed.
                self._change_settings(seeds=tuple(seeds))
                for file in sorted(
                    self.member_folder(member).iterdir(), key=lambda file: file.name == DIVERGED_FILE
                ):
                    file.unlink()

    def _change_settings(self, **changes: object) -> None:
        self.settings = self.settings.model_copy(update=changes)
        write_text_whole(self.folder / SETTINGS_FILE, self.settings.model_dump_json(indent=2) + "\n")

    def require_same(self, dataset: Dataset) -> None:
        """Find out whether these are the images that the run began with.

        Raises:
            RunError: They are others.
        """
        if dataset.digest() != self.settings.data_sha256:
            raise RunError(
                f"{dataset.name} are not the images that {self.folder} began with; name those with --data"
            )
        if dataset.class_labels != self.settings.class_labels:
            raise RunError(
                f"the classes of {dataset.name} are called {', '.join(dataset.class_labels)} now, and "
                f"{', '.join(self.settings.class_labels)} when {self.folder} began; call them so again"
            )

    def bytes_to_come(self, dataset: Dataset) -> int:
        """About how much the run has yet to write: members not trained, predictions, and the report."""
        each = [bytes_on_disk(self.settings.plan(member), dataset) for member in self.settings.unlike_members]
        untrained = [member for member in self.settings.members if not self.is_trained(member)]
        predicted = len(dataset.train_sample) + len(dataset.held_out) + len(dataset.test)
        predictions_bytes = 4 * len(self.settings.seeds) * predicted * len(dataset.class_labels)
        return sum(each[(member - 1) % len(each)] for member in untrained) + predictions_bytes + REPORT_BYTES

    def load_members(self) -> list[tuple[Network, CheckpointHeader]]:
        """All trained members in order.

        Raises:
            CheckpointError: One is missing or damaged.
        """
        folders = map(self.member_folder, self.settings.members)
        return [load_checkpoint(folder / CHECKPOINT_FILE) for folder in folders]

    def is_trained(self, member: int) -> bool:
        """Whether member `member`, counted from 1, has learned to its end."""
        return (self.member_folder(member) / CHECKPOINT_FILE).exists()

    @property
    def is_finished(self) -> bool:
        """Whether its figures are on disk."""
        return (self.folder / SUMMARY_FILE).exists()

    def read_summary(self) -> Summary:
        """The figures of a finished run.

        Raises:
            RunError: The run is not finished.
        """
        try:
            return Summary.model_validate_json((self.folder / SUMMARY_FILE).read_bytes())
        except OSError as error:
            raise RunError(
                f"{self.folder} has no summary: {error}. Finish it with: {resume_command(self.folder)}"
            ) from error
        except ValidationError as error:
            raise RunError(f"{self.folder / SUMMARY_FILE} is damaged: {_first(error)}") from error

    def finish(self, dataset: Dataset) -> Summary:
        """Measure the trained members and their average, and keep figures and predictions beside the checkpoints.

        Raises:
            CheckpointError: A member is missing or damaged.
        """
        on_gpu = self.settings.device == "cuda"  # where each member learned with one thread
        # The last digits of a sum depend on it.
        torch.set_num_threads(available_cores() if on_gpu else self.settings.threads)
        members = self.load_members()
        predictions = Predictions.of(members, dataset)
        predictions.save(self.folder / PREDICTIONS_FILE)
        summary = summarize(members, predictions, dataset)
        write_text_whole(self.folder / SUMMARY_FILE, summary.model_dump_json(indent=2) + "\n")
        return summary


def resume_command(folder: Path) -> str:
    """What goes on with the run in a folder."""
    return f"python -m training.fit --resume {shlex.quote(str(folder))}"


def require_unused(folder: Path) -> None:
    """Find out whether a run may begin in a folder, which need not be there yet.

    Raises:
        RunError: Something is in it.
    """
    # A first try that was killed may have left its settings half written.
    if folder.exists() and any(path.name != SETTINGS_FILE + UNFINISHED for path in folder.iterdir()):
        raise RunError(
            f"{folder} is not empty; choose another folder with --run, or continue it with --resume "
            f"{shlex.quote(str(folder))}"
        )


def require_space(runs: Sequence[Run], dataset: Dataset, then: str) -> None:
    """Find out before training whether all that runs have yet to write fits on the disk.

    Args:
        runs: One or more, on one disk.
        dataset: Their images.
        then: How to go on once there is room.

    Raises:
        RunError: It does not fit.
    """
    needed_bytes = sum(run.bytes_to_come(dataset) for run in runs)
    folder = runs[0].folder
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise RunError(
            f"the disk of {folder} has {free_bytes / 1e6:,.0f} MB free, and {needed_bytes / 1e6:,.0f} MB are "
            f"needed; make room, then {then}"
        )


def tool_versions() -> dict[str, str]:
    """What trains here."""
    return {"python": platform.python_version(), "torch": str(torch.__version__)}


def _listed(tools: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in tools.items())


def _first(error: ValidationError) -> str:
    problem = error.errors(include_url=False)[0]
    return f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}"
