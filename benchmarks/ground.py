"""How the ground behind strokes changes what the shipped model reads: `python -m benchmarks.ground`.

The ten example digits are drawn with several inks on several grounds; the server answers.
"""

from __future__ import annotations

import io
import sys

from pydantic_settings import BaseSettings, SettingsConfigDict
from rich.console import Console
from rich.table import Table

from examples.draw_digits import STROKES, draw
from serving.client import DEFAULT_TARGET, CallError, Client

SIDE_PIXELS = 160
PENS = (0.05, 0.075, 0.10)
INKS_AND_GROUNDS = ((0, 255), (30, 245), (80, 200), (200, 80), (255, 0))


class GroundSettings(BaseSettings):
    """Draw the ten digits with several pens, inks and grounds; ask a running server what they are."""

    model_config = SettingsConfigDict(
        env_prefix="CONSORT_",
        cli_prog_name="python -m benchmarks.ground",
        use_attribute_docstrings=True,
        cli_kebab_case=True,
    )

    target: str = DEFAULT_TARGET
    """Host and port of the server."""
    model: str = "mnist"
    """Name of the model; its latest version is asked."""
    wait_seconds: float = 10.0
    """How long to wait for a server that is still starting."""


def main() -> None:
    """Print, for each pen, ink and ground, how many digits are read right and the least sure right one."""
    settings = GroundSettings(_cli_parse_args=True)
    table = Table(title="ten drawn digits")
    for heading in ("pen", "ink", "ground", "read right", "least probability of the right class"):
        table.add_column(heading)
    with Client(settings.target) as client:
        client.wait_until_ready(settings.wait_seconds)
        for pen in PENS:
            for ink, ground in INKS_AND_GROUNDS:
                files = [_png(digit, pen, ink, ground) for digit in STROKES]
                found = client.classify(files, model=settings.model).classifications
                right = sum(one.label == str(digit) for digit, one in zip(STROKES, found, strict=True))
                least = min(one.probabilities[digit] for digit, one in zip(STROKES, found, strict=True))
                table.add_row(f"{pen:.1%}", str(ink), str(ground), f"{right} of 10", f"{least:.1%}")
    Console().print(table)


def _png(digit: int, pen: float, ink: int, ground: int) -> bytes:
    buffer = io.BytesIO()
    draw(digit, SIDE_PIXELS, pen, ink, ground).save(buffer, "PNG")
    return buffer.getvalue()


if __name__ == "__main__":
    try:
        main()
    except CallError as error:
        sys.exit(str(error))
