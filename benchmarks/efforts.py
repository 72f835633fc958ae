"""What fewer members cost: `python -m benchmarks.efforts` asks a server for each number of them and early stop.

Early stop must give the class of the full average for every image, or the command fails.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic_settings import BaseSettings, SettingsConfigDict
from rich.console import Console
from rich.table import Table

from benchmarks.images import MNIST, read_images
from benchmarks.servers import run_server
from serving.client import Client
from training.dataset import Images

CALL_IMAGES = 250


class EffortSettings(BaseSettings):
    """Measure a model's accuracy on held-out and on test images by how many members are asked."""

    model_config = SettingsConfigDict(
        env_prefix="CONSORT_",
        cli_prog_name="python -m benchmarks.efforts",
        use_attribute_docstrings=True,
        cli_kebab_case=True,
    )

    data: Path = MNIST
    """Images that the model was trained on: a folder of the four MNIST files, say."""
    models: Path = Path("models")
    """Folder of bundles."""
    model: str = "mnist"
    """Name of the model; its latest version is measured."""


def main() -> int:
    """Print a row for each number of members, and one for early stop; 0 if that changes no class."""
    settings = EffortSettings(_cli_parse_args=True)
    dataset = read_images(settings.data)
    parts = (dataset.held_out, dataset.test)
    table = Table(
        "members asked",
        "members run",
        *(f"{name} ({len(part):,})" for name, part in zip(("held-out", "test"), parts, strict=True)),
    )
    with (
        run_server("--models", str(settings.models), "--log-format", "json") as server,
        Client(server.target, timeout_seconds=60) as client,
    ):
        members = len(client.get_model(settings.model).members)
        for asked in range(1, members + 1):
            full = [classify(client, settings.model, part, max_members=asked) for part in parts]
            _add_row(table, str(asked), full, parts)
        early = [classify(client, settings.model, part, early_stop=True) for part in parts]
        _add_row(table, f"{members}, early stop", early, parts)
    changed = sum(int((one[0] != other[0]).sum()) for one, other in zip(full, early, strict=True))
    Console(width=100).print(table)
    print(f"early stop changed the class of {changed} of {sum(map(len, parts)):,} images")
    return 1 if changed else 0


Found = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
"""Class indices, and how many members ran, both (images,)."""


def classify(
    client: Client, model: str, images: Images, *, max_members: int = 0, early_stop: bool = False
) -> Found:
    """What the server says of images."""
    answers = [
        client.classify(
            images.pixels[first : first + CALL_IMAGES].numpy(),
            model=model,
            max_members=max_members,
            early_stop=early_stop,
        )
        for first in range(0, len(images), CALL_IMAGES)
    ]
    found = [one for answer in answers for one in answer.classifications]
    return np.array([one.top_classes[0].index for one in found]), np.array([one.members_run for one in found])


def _add_row(table: Table, asked: str, found: list[Found], parts: tuple[Images, ...]) -> None:
    accuracies = [(classes == part.labels.numpy()).mean() for (classes, _), part in zip(found, parts, strict=True)]
    run = np.concatenate([members_run for _, members_run in found]).mean()
    table.add_row(asked, f"{run:.2f}", *(f"{accuracy:.2%}" for accuracy in accuracies))


if __name__ == "__main__":
    sys.exit(main())
