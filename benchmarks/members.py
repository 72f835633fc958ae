"""How fast one core runs the members of bundles: `python -m benchmarks.members BUNDLE...`.

Needs no server: it opens each member as the server does and feeds it noise. Bundles take turns, so that all of
them meet the same noise of the machine, and the time is the processor's, not the clock's. Members compute as fast
whatever they have learned, so that the bundles of a short run will do to compare precisions.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import onnxruntime
from pydantic import Field
from pydantic_settings import BaseSettings, CliPositionalArg, SettingsConfigDict
from rich.console import Console
from rich.table import Table

from export.manifest import INPUT_NAME, read_manifest
from export.proof import Pixels, make_inputs
from serving.providers import open_session

BATCHES = (1, 32)


class MembersSettings(BaseSettings):
    """Time the members of bundles on one core, member by member."""

    model_config = SettingsConfigDict(
        cli_prog_name="python -m benchmarks.members",
        use_attribute_docstrings=True,
        cli_kebab_case=True,
    )

    bundles: CliPositionalArg[list[Path]]
    """Folders <models>/<name>/<version> of as many members each; the others are compared with the first."""
    rounds: int = Field(15, ge=1)
    """How often each member is measured."""
    images: int = Field(160, ge=1)
    """Of every measurement, at least one batch."""


def main() -> None:
    """Print images a second of every member, and how much faster than the first bundle's it is."""
    settings = MembersSettings(_cli_parse_args=True)
    bundles = [open_members(folder) for folder in settings.bundles]
    shape = read_manifest(settings.bundles[0]).input.shape
    table = Table("member", "batch", "bundle", "images/s", "range", "times the first")
    for number, members in enumerate(zip(*bundles, strict=True), start=1):
        for batch in BATCHES:
            pixels = make_inputs(batch, shape)
            rounds = [
                [images_per_second(member, pixels, settings.images) for member in members]
                for _ in range(settings.rounds)
            ]
            for index, folder in enumerate(settings.bundles):
                rates = [each[index] for each in rounds]
                table.add_row(
                    str(number),
                    str(batch),
                    str(folder),
                    f"{statistics.median(rates):,.0f}",
                    f"{min(rates):,.0f} to {max(rates):,.0f}",
                    f"{statistics.median(each[index] / each[0] for each in rounds):.2f}",
                )
    Console(width=120).print(table)


def open_members(folder: Path) -> list[onnxruntime.InferenceSession]:
    """A bundle's members, on one thread each."""
    files = [folder / member.file for member in read_manifest(folder).members]
    return [open_session(file.read_bytes(), file.name, "cpu") for file in files]


def images_per_second(member: onnxruntime.InferenceSession, pixels: Pixels, images: int) -> float:
    """Of processor time, over at least `images` images."""
    batches = max(1, images // len(pixels))
    started = time.thread_time()
    for _ in range(batches):
        member.run(None, {INPUT_NAME: pixels})
    return batches * len(pixels) / (time.thread_time() - started)


if __name__ == "__main__":
    main()
