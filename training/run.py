"""A run: members of one recipe trained on one data set, and the folder that holds all of it.

- `settings.json`: what was asked for, resolved: recipe, seeds, data, precision, tool versions.
- `member-1/metrics.jsonl`: one line an epoch; `member-1/checkpoint.safetensors`: the trained member; and so on.
- `summary.json`: how good each member and their average are.
"""

from __future__ import annotations

import platform
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, Field, ValidationError

from training.architectures import Network, count_multiply_adds, count_parameters
from training.checkpoint import CheckpointHeader, load_checkpoint
from training.dataset import Dataset, Images
from training.errors import RunError
from training.evaluation import Figures, average, calibrate, fit_temperature, measure, predict
from training.files import write_text_whole
from training.member import CHECKPOINT_FILE, Plan
from training.recipe import Recipe

SETTINGS_FILE = "settings.json"
SUMMARY_FILE = "summary.json"


class RunSettings(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """Everything that decides what a run comes to."""

    recipe: Recipe
    """How each member is trained."""
    seeds: tuple[int, ...] = Field(min_length=1)
    """One a member."""
    precision: Literal["float32", "bfloat16"]
    """What convolutions and dense layers computed in while learning."""
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

    def plan(self, seed: int) -> Plan:
        """What to train for one of the seeds."""
        return Plan(self.recipe, seed, {"float32": torch.float32, "bfloat16": torch.bfloat16}[self.precision])


class MemberSummary(BaseModel, frozen=True, extra="forbid"):
    """How good one member is."""

    architecture: str
    seed: int
    parameters: int
    multiply_adds: int
    held_out: Figures
    test: Figures


class EnsembleSummary(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """How good the members' average is."""

    temperature: float
    """Fitted on the held-out images after averaging."""
    held_out: Figures
    """Of the calibrated average."""
    test: Figures
    """Of the calibrated average."""
    held_out_uncalibrated: Figures
    """Of the plain average."""
    test_uncalibrated: Figures
    """Of the plain average."""


class Summary(BaseModel, frozen=True, extra="forbid"):
    """How good a run's members and their average are."""

    members: tuple[MemberSummary, ...]
    ensemble: EnsembleSummary


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
            if any(folder.iterdir()):
                raise RunError(
                    f"{folder} is not empty; choose another folder with --run, or continue it with "
                    f"--resume {folder}"
                )
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
            return cls(folder, RunSettings.model_validate_json((folder / SETTINGS_FILE).read_text()))
        except OSError as error:
            raise RunError(f"{folder} holds no run: {error}") from error
        except ValidationError as error:
            raise RunError(f"{folder / SETTINGS_FILE} is damaged: {_first(error)}") from error

    def member_folder(self, member: int) -> Path:
        """Where member `member`, counted from 1, is kept."""
        return self.folder / f"member-{member}"

    def require_space(self, needed_bytes: int) -> None:
        """Find out before training whether its files will fit on the disk.

        Raises:
            RunError: They will not.
        """
        free_bytes = shutil.disk_usage(self.folder).free
        if free_bytes < needed_bytes:
            raise RunError(
                f"{self.folder} has {free_bytes / 1e6:.0f} MB of free disk, the run needs "
                f"{needed_bytes / 1e6:.0f} MB; make room, then continue with --resume {self.folder}"
            )

    def load_members(self) -> list[tuple[Network, CheckpointHeader]]:
        """All trained members in order.

        Raises:
            CheckpointError: One is missing or damaged.
        """
        members = range(1, len(self.settings.seeds) + 1)
        return [load_checkpoint(self.member_folder(member) / CHECKPOINT_FILE) for member in members]

    def read_summary(self) -> Summary:
        """The figures of a finished run.

        Raises:
            RunError: The run is not finished.
        """
        try:
            return Summary.model_validate_json((self.folder / SUMMARY_FILE).read_text())
        except OSError as error:
            raise RunError(
                f"{self.folder} has no summary: {error}. Finish the run with --resume {self.folder}"
            ) from error
        except ValidationError as error:
            raise RunError(f"{self.folder / SUMMARY_FILE} is damaged: {_first(error)}") from error

    def write_summary(self, summary: Summary) -> None:
        """Keep the figures beside the checkpoints."""
        write_text_whole(self.folder / SUMMARY_FILE, summary.model_dump_json(indent=2) + "\n")


def summarize(members: Sequence[tuple[Network, CheckpointHeader]], dataset: Dataset) -> Summary:
    """Measure each member and their average. This is where, once, the test images are looked at."""
    held_out = [predict(network, dataset.held_out) for network, _ in members]
    test = [predict(network, dataset.test) for network, _ in members]
    return Summary(
        members=tuple(
            MemberSummary(
                architecture=header.architecture,
                seed=header.seed,
                parameters=count_parameters(network),
                multiply_adds=count_multiply_adds(network, header.image_shape),
                held_out=measure(held_out[index], dataset.held_out.labels),
                test=measure(test[index], dataset.test.labels),
            )
            for index, (network, header) in enumerate(members)
        ),
        ensemble=_summarize_ensemble(average(held_out), dataset.held_out, average(test), dataset.test),
    )


def tool_versions() -> dict[str, str]:
    """What trains here."""
    return {"python": platform.python_version(), "torch": str(torch.__version__)}


def _first(error: ValidationError) -> str:
    problem = error.errors(include_url=False)[0]
    return f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}"


def _summarize_ensemble(
    held_out_average: torch.Tensor, held_out: Images, test_average: torch.Tensor, test: Images
) -> EnsembleSummary:
    temperature = fit_temperature(held_out_average, held_out.labels)
    return EnsembleSummary(
        temperature=temperature,
        held_out=measure(calibrate(held_out_average, temperature), held_out.labels),
        test=measure(calibrate(test_average, temperature), test.labels),
        held_out_uncalibrated=measure(held_out_average, held_out.labels),
        test_uncalibrated=measure(test_average, test.labels),
    )
