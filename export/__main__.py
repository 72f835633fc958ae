"""Write a finished run as the next version of a model: `python -m export RUN`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from pydantic_settings import CliPositionalArg, SettingsConfigDict
from rich.console import Console

from export.bundle import export_bundle
from export.errors import ExportError
from export.manifest import Manifest, Name, read_manifest
from training.command import COMMAND_CONFIG, Command, run_command
from training.dataset import Dataset
from training.errors import RunError, TrainingError
from training.run import Run
from training.sources import load_dataset


class ExportSettings(Command):
    """Write the members of a finished run as the next version of a model, proved to compute what was trained."""

    model_config = COMMAND_CONFIG | SettingsConfigDict(cli_prog_name="python -m export")

    run: CliPositionalArg[Path]
    """Folder that python -m training.fit has written."""
    name: Name
    """Of the model; lower-case letters, digits, dots, underscores and dashes."""
    models: Path = Path("models")
    """Folder of all models; the bundle becomes <models>/<name>/<version>."""
    precision: Literal["float32", "int8"] = "float32"
    """What members compute in. int8 serves networks of large convolutions faster; it is calibrated on training
    images, measured on held-out ones, and refused if the ensemble loses more than 0.05 points on those."""
    data: Path | None = None
    """Where the run's images are now, by default where the run read them; only int8 needs them."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; gives the process's exit code."""
    return run_command(ExportSettings, arguments, export_and_tell, failures=(ExportError, TrainingError))


def export_and_tell(settings: ExportSettings, console: Console) -> None:
    """Write the bundle, and say what it is."""
    folder = export(settings)
    console.print(f"{folder}: {describe(folder)}", soft_wrap=True, highlight=False)


def export(settings: ExportSettings) -> Path:
    """Write the bundle that the settings ask for; gives its folder.

    Raises:
        ExportError: A proof fails, int8 loses too much, or the folder cannot be written.
        TrainingError: The run is not finished or damaged, or int8 does not find its images.
    """
    run = Run.open(settings.run)
    int8_data = load_images(run, settings.data) if settings.precision == "int8" else None
    return export_bundle(run, settings.name, settings.models, int8_data)


def load_images(run: Run, data: Path | None) -> Dataset:
    """The images that a run began with, from `data` if they have moved.

    Raises:
        TrainingError: They are not there, or others are.
    """
    path = data or run.settings.data_path
    if not path.exists():
        raise RunError(f"int8 needs the images of {run.folder}, which are not at {path}; name them with --data")
    dataset = load_dataset(path, run.settings.image_side)
    run.require_same(dataset)
    return dataset


def describe(folder: Path) -> str:
    """What a bundle is and what was proved of it, in a line."""
    manifest = read_manifest(folder)
    megabytes = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
    low, high = manifest.test.accuracy_interval
    return (
        f"{len(manifest.members)} members, {megabytes:.1f} MB, "
        f"onnxruntime within {manifest.parity.largest_difference:.1e} of torch, {describe_precision(manifest)}"
        f"test accuracy {manifest.test.accuracy:.2%} ({100 * low:.2f} to {100 * high:.2f})"
    )


def describe_precision(manifest: Manifest) -> str:
    """What int8 cost; nothing for float32."""
    cost = manifest.quantization
    if cost is None:
        return ""
    return (
        f"then made int8: held-out accuracy from {cost.held_out_accuracy_before:.2%} to "
        f"{cost.held_out_accuracy_after:.2%}, {cost.same_top_class:.2%} of the images keep their class, "
    )


if __name__ == "__main__":
    sys.exit(main())
