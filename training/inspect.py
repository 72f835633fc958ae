"""What excites each unit of a finished run's members: `python -m training.inspect RUN`.

Beside the run, in `inspect/`, for each member, layer and unit: the training images that it answers most strongly
to, and the input that excites it most. `python -m explorer --run RUN` shows them.

- `index.json`: the members, their layers, and in words how all of it was found.
- `member-1/convolution-1.json`: by unit, which images, what they show, and the unit's answers.
- `member-1/convolution-1.png`: a row a unit, the images from the left, and last the input that excites it most.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rich.progress
import torch
from pydantic import Field
from pydantic_settings import CliPositionalArg, SettingsConfigDict
from rich.console import Console

from training.architectures import Network
from training.checkpoint import CheckpointHeader
from training.command import COMMAND_CONFIG, Command, run_command
from training.dataset import Dataset
from training.errors import RunError
from training.maximisation import REGULARISATION, maximise
from training.run import Run
from training.sheets import file_stem, tile_size, write_layer
from training.sources import load_dataset
from training.units import (
    STRONGEST_IMAGES,
    UnitLayer,
    find_strongest,
    find_unit_layers,
    first_weights_sha256,
)

FORMAT_VERSION = 1
INSPECT_FOLDER = "inspect"
INDEX_FILE = "index.json"
SELECTION = (
    f"Of all training images as they are, the {STRONGEST_IMAGES} with the largest value of the unit, before "
    "pooling, activation and normalization; of a convolution's map, the largest anywhere in it."
)


class InspectSettings(Command):
    """Find what excites each unit of a run's members most: nine training images, and an input made for it."""

    model_config = COMMAND_CONFIG | SettingsConfigDict(cli_prog_name="python -m training.inspect")

    run: CliPositionalArg[Path]
    """Folder that python -m training.fit has finished; the pictures go to its subfolder `inspect`."""
    data: Path | None = None
    """Where the images are now; by default where the run read them."""
    most_dense_units: int = Field(512, ge=1)
    """Dense layers of more units are left out; classes never are."""
    threads: int | None = Field(None, ge=1)
    """Processor threads; by default as many as each member had while it learned."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; gives the process's exit code."""
    return run_command(InspectSettings, arguments, inspect)


def inspect(settings: InspectSettings, console: Console) -> None:
    """Look into all members of the run that the settings name.

    Raises:
        TrainingError: The run is not finished, its folder cannot be written, or the images are not those that it
            began with.
    """
    run = Run.open(settings.run)
    run.read_summary()
    members = run.load_members()
    unfinished = _begin(run)
    try:
        dataset = load_dataset(settings.data or run.settings.data_path, run.settings.image_side)
        run.require_same(dataset)
        torch.set_num_threads(settings.threads or run.settings.threads)
        folder = _write(unfinished, members, dataset, settings.most_dense_units, console)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    console.print(f"{folder}", soft_wrap=True, highlight=False)
    console.print(f"Show them with: python -m explorer --run {run.folder}", soft_wrap=True, highlight=False)


def _begin(run: Run) -> Path:
    """A new folder beside the one that will be written: what is there stays until all is there anew.

    Raises:
        RunError: The run's folder cannot be written.
    """
    place = run.folder / INSPECT_FOLDER
    unfinished = place.with_name(f"{INSPECT_FOLDER}.unfinished")
    try:
        if place.exists() and not place.is_dir():
            raise RunError(f"{place} is in the way: it is no folder; move it")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
    except OSError as error:
        raise RunError(f"{place} cannot be written: {error}") from error
    return unfinished


def _write(
    unfinished: Path,
    members: list[tuple[Network, CheckpointHeader]],
    dataset: Dataset,
    most_dense_units: int,
    console: Console,
) -> Path:
    """Everything of all members, moved into place as a whole; gives the folder."""
    tile = tile_size(dataset.image_shape)
    described = []
    for number, (network, header) in enumerate(members, start=1):
        folder = unfinished / f"member-{number}"
        folder.mkdir()
        layers = find_unit_layers(network.eval(), most_dense_units)
        with _Progress(console, f"member {number} of {len(members)}", layers, len(dataset.train)) as progress:
            found = find_strongest(network, layers, dataset.train.pixels, progress.advance)
            for layer, strongest in zip(layers, found, strict=True):
                pictures, answers = maximise(network, layer, header.image_shape)
                write_layer(folder, layer, dataset.train, strongest, pictures, answers, tile)
                progress.advance(layer.units)
        described.append(_describe(network, header, layers))
    index = {
        "format_version": FORMAT_VERSION,
        "data": dataset.name,
        "data_sha256": dataset.digest(),
        "images": len(dataset.train),
        "class_labels": dataset.class_labels,
        "tile": tile,
        "selection": SELECTION,
        "regularisation": REGULARISATION,
        "members": described,
    }
    (unfinished / INDEX_FILE).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    place = unfinished.with_name(INSPECT_FOLDER)
    shutil.rmtree(place, ignore_errors=True)
    return unfinished.rename(place)


def _describe(network: Network, header: CheckpointHeader, layers: list[UnitLayer]) -> dict[str, Any]:
    return {
        "architecture": header.architecture,
        "seed": header.seed,
        "first_weights_sha256": first_weights_sha256(network),
        "layers": [{"title": layer.title, "units": layer.units, "file": file_stem(layer)} for layer in layers],
    }


@dataclass
class _Progress:
    """A bar on a terminal, elsewhere one line a member: images passed through, then units excited."""

    console: Console
    title: str
    layers: list[UnitLayer]
    images: int

    def __enter__(self) -> _Progress:
        units = sum(layer.units for layer in self.layers)
        self._said = f"{self.title}: {self.images:,} images, {units:,} units"
        self._bars = rich.progress.Progress(console=self.console, disable=not self.console.is_terminal)
        self._bars.start()
        self._task = self._bars.add_task(self._said, total=self.images + units)
        self._began = time.perf_counter()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._bars.stop()
        if kind is None and not self.console.is_terminal:
            seconds = time.perf_counter() - self._began
            self.console.print(f"{self._said}, {seconds:.1f} s", soft_wrap=True, highlight=False)

    def advance(self, count: int) -> None:
        """So many images or units are done."""
        self._bars.advance(self._task, count)


if __name__ == "__main__":
    sys.exit(main())
