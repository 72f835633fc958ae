"""What `python -m training.inspect` wrote beside a run: the images and the input that excite each unit most."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from PIL import Image
from pydantic import BaseModel, Field, StringConstraints, ValidationError

from explorer.errors import NotInspected
from explorer.layers import Layer
from explorer.network import Network

INDEX_FILE = "index.json"
MOST_SHEET_PIXELS = 2**26
Stem = Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]+$")]
Numbers = list[float | None]


class Part(BaseModel, frozen=True):
    """Base of what is read; fields that are not named here are passed over."""


class InspectedLayer(Part):
    """A layer whose units were looked at."""

    title: str
    units: int = Field(ge=1)
    file: Stem


class InspectedMember(Part):
    """A member, told by its first weights."""

    first_weights_sha256: str
    layers: list[InspectedLayer]


class Index(Part):
    """All of it, and in words how it was found."""

    format_version: Literal[1]
    data: str
    images: int
    class_labels: list[str]
    tile: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
    selection: str
    regularisation: str
    members: list[InspectedMember]


class Units(Part):
    """By unit: labels of its strongest images, its answers to them, and its answer to the input made for it."""

    labels: list[list[int]]
    values: list[Numbers]
    maximised: Numbers


P = TypeVar("P", bound=Part)


@dataclass(frozen=True)
class Excited:
    """What excites one unit.

    Attributes:
        title: Of the layer that the unit is learned in, such as "convolution 2".
        unit: Its number there, from 0.
        labels: Classes of its strongest images, the strongest first.
        values: Its answers to them.
        maximised: Its answer to the input that excites it most.
        index: How all of it was found.
        sheet: File with its row of pictures.
    """

    title: str
    unit: int
    labels: list[str]
    values: Numbers
    maximised: float | None
    index: Index
    sheet: Path


class Inspection:
    """The folder `inspect` of a run; read anew each time, since it may be written while the explorer runs."""

    def __init__(self, run: Path | None) -> None:
        self._run = run

    def find(self, network: Network, layer: Layer, channel: int) -> Excited:
        """What excites a unit of a member most.

        Args:
            network: The member.
            layer: One of its own.
            channel: The unit's number in that layer, from 0: a map, or one of its numbers.

        Raises:
            NotInspected: There is nothing about it; the message says what makes it.
        """
        folder, index = self._open()
        number = self._member_number(index, network)
        member = index.members[number - 1]
        found = next((one for one in member.layers if one.title == layer.source), None)
        if found is None or found.units != layer.shape[0]:
            raise NotInspected(f"The run's inspection has no units of {layer.source or 'the input'}.")
        place = folder / f"member-{number}" / found.file
        units = _read(place.with_suffix(".json"), Units)
        try:
            labels = [index.class_labels[label] for label in units.labels[channel]]
            return Excited(
                title=found.title,
                unit=channel,
                labels=labels,
                values=units.values[channel],
                maximised=units.maximised[channel],
                index=index,
                sheet=place.with_suffix(".png"),
            )
        except IndexError as error:
            raise _damaged(place.with_suffix(".json")) from error

    def _open(self) -> tuple[Path, Index]:
        if self._run is None:
            raise NotInspected(
                "Which images excite this unit most is found by python -m training.inspect RUN, "
                "and shown here if the explorer was started with --run RUN."
            )
        folder = self._run / "inspect"
        if not (folder / INDEX_FILE).exists():
            raise NotInspected(
                f"Which images excite this unit most is found by python -m training.inspect {self._run}."
            )
        return folder, _read(folder / INDEX_FILE, Index)

    def _member_number(self, index: Index, network: Network) -> int:
        if network.weights is not None:
            ours = hashlib.sha256(network.weights.astype("<f4").tobytes()).hexdigest()
            for number, member in enumerate(index.members, start=1):
                if member.first_weights_sha256 == ours:
                    return number
        raise NotInspected(
            f"The run {self._run} did not make this member: none of its own has the same weights. "
            "Start the explorer with --run naming the run that the model was exported from."
        )


def pictures_of(excited: Excited) -> bytes:
    """The unit's row of pictures, as a PNG file: the strongest images, and last the input that excites it most.

    Raises:
        NotInspected: The sheet cannot be read.
    """
    height = excited.index.tile[0]
    row = BytesIO()
    try:
        with Image.open(excited.sheet, formats=["PNG"]) as sheet:
            if sheet.width * sheet.height > MOST_SHEET_PIXELS or sheet.height < (excited.unit + 1) * height:
                raise _damaged(excited.sheet)
            sheet.crop((0, excited.unit * height, sheet.width, (excited.unit + 1) * height)).save(row, "PNG")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise _damaged(excited.sheet) from error
    return row.getvalue()


def _read(file: Path, kind: type[P]) -> P:
    try:
        return kind.model_validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        raise _damaged(file) from error


def _damaged(file: Path) -> NotInspected:
    return NotInspected(f"{file} cannot be used; write it again with python -m training.inspect.")
