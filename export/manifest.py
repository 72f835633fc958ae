"""The bundle's manifest: the only thing that `export` and `serving` share.

A bundle is a folder `<name>/<version>/` with `manifest.json` and one ONNX file a member. Each member takes
uint8 pixels (batch, channels, height, width) and gives float32 probabilities (batch, classes); their arithmetic
mean, at the manifest's temperature, is the ensemble's answer. `docs/bundle.schema.json` is this module's JSON
Schema; `python -m export.manifest` prints it.
"""

from __future__ import annotations

import base64
import binascii
import errno
import hashlib
import json
import math
import os
import stat
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from machine.problems import explain

FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"
INPUT_NAME = "pixels"
OUTPUT_NAME = "probabilities"

NAME_PATTERN = r"^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$"
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*\.onnx$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=1, le=2**63 - 1)]
Share = Annotated[float, Field(ge=0, le=1)]


class ManifestError(ValueError):
    """A manifest is missing, is no JSON, or does not describe a bundle."""


class Part(BaseModel):
    """Base of everything in a manifest: frozen, nothing unknown, no infinities."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class Input(Part):
    """What every member takes."""

    channels: Literal[1, 3]
    """1: grey. 3: red, green, blue."""
    height: int = Field(ge=1, le=4096)
    """Rows, in pixels."""
    width: int = Field(ge=1, le=4096)
    """Columns, in pixels."""
    dtype: Literal["uint8"] = "uint8"
    """One byte a value, 0..255; normalization lies inside the graph."""
    layout: Literal["NCHW"] = "NCHW"
    """Batch, channels, height, width."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return self.channels, self.height, self.width


class Member(Part):
    """One network of the ensemble."""

    file: FileName
    """ONNX file beside the manifest, with its weights inside."""
    sha256: Sha256
    """Of the file."""
    architecture: str
    """Name of the network's architecture."""
    seed: int = Field(ge=-(2**63), le=2**63 - 1)
    """What it was trained from."""
    parameters: Count
    """Trainable numbers."""
    multiply_adds: Count
    """For one image."""
    held_out_accuracy: Share
    """Of this member alone."""


class Averaging(Part):
    """How members become one answer: average, then raise to the power 1/temperature and renormalize."""

    method: Literal["arithmetic mean of softmax"] = "arithmetic mean of softmax"
    """What is averaged, and how."""
    temperature: float = Field(gt=0)
    """Fitted on held-out images after averaging; 1 leaves the average as it is."""


class Figures(Part):
    """How the calibrated average compares with labels."""

    count: Count
    """Images measured on."""
    accuracy: Share
    """Share of images whose top class is the label."""
    accuracy_interval: tuple[Share, Share]
    """95 % Wilson score interval."""
    nll: float = Field(ge=0)
    """Mean negative log-likelihood of the label, in nats."""
    ece: Share
    """Expected calibration error over 15 equally wide bins."""


class Parity(Part):
    """How far onnxruntime's probabilities were from torch's when the bundle was written.

    Where there is a `quantization`, it comes after: these are of the float32 graphs that it began with.
    """

    batch_sizes: tuple[int, ...]
    """Batches that were compared, for every member."""
    limit: float = Field(gt=0)
    """Largest difference that was accepted: above 1e-5 where torch itself rounds by a third of that."""
    largest_difference: float = Field(ge=0)
    """Largest absolute difference found in any probability."""


class Quantization(Part):
    """What it cost to make the members int8, measured on the held-out images against the float32 ensemble."""

    precision: Literal["int8"] = "int8"
    """What convolutions, but for each member's first, and dense layers are computed in."""
    calibration_images: Count
    """Training images on which the ranges of activations were measured."""
    held_out_accuracy_before: Share
    """Of the float32 ensemble."""
    held_out_accuracy_after: Share
    """Of the ensemble that is served, as `held_out` says too."""
    same_top_class: Share
    """Share of held-out images whose top class is the float32 ensemble's."""
    largest_difference: float = Field(ge=0)
    """Largest absolute difference in any probability of the plain average."""


class Expected(Part):
    """What the ensemble, all members asked, says of the held-out images: to be set beside what it says in use."""

    images: Count
    """How many held-out images."""
    class_shares: tuple[Share, ...]
    """Share of images of each top class, in the order of the class labels."""
    entropy: float = Field(ge=0)
    """Mean entropy of the plain average, in nats."""
    agreement: Share
    """Mean share of members whose top class is the ensemble's."""


class SelfCheck(Part):
    """Inputs with the outputs they must give; the server replays them when it loads the bundle."""

    images: int = Field(ge=1)
    """How many inputs."""
    pixels_base64: str
    """uint8 (images, channels, height, width) in C order, as base64."""
    member_probabilities: tuple[tuple[tuple[Share, ...], ...], ...]
    """By member, image and class."""
    tolerance: float = Field(gt=0)
    """Largest absolute difference that counts as equal."""

    @property
    def pixels(self) -> bytes:
        """The decoded inputs."""
        return base64.b64decode(self.pixels_base64, validate=True)


class Manifest(Part):
    """Everything that a server, and a person, needs to know of a bundle."""

    format_version: Literal[1]
    """Of this description; a server refuses what it does not know."""
    name: Name
    """Of the model; the bundle's folder lies in a folder of this name."""
    version: int = Field(ge=1, le=2**31 - 1)
    """Of the model; the bundle's folder is named by it."""
    class_labels: tuple[Annotated[str, StringConstraints(min_length=1)], ...] = Field(min_length=2)
    """In the order of all probabilities."""
    input: Input
    """The images that all members take."""
    members: tuple[Member, ...] = Field(min_length=1)
    """The networks that are averaged."""
    averaging: Averaging
    """How they become one answer."""
    held_out: Figures
    """On images kept back from training; the temperature was fitted on them."""
    test: Figures
    """On the test images; nothing was chosen on them."""
    recipe: dict[str, Any]
    """How the members were trained."""
    parity: Parity
    """Proof that the graphs compute what was trained."""
    quantization: Quantization | None = Field(None, exclude_if=lambda value: value is None)
    """What int8 cost; absent where members compute in float32."""
    expected: Expected | None = Field(None, exclude_if=lambda value: value is None)
    """What drift is measured against; absent in bundles that were written before it was recorded."""
    self_check: SelfCheck
    """Proof, on the serving machine, that they still do."""
    tools: dict[str, str]
    """Versions of what made the bundle."""

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Self:
        files = [member.file for member in self.members]
        _require(len(set(self.class_labels)) == len(self.class_labels), "class_labels: a label comes twice")
        _require(len(set(files)) == len(files), "members: a file comes twice")
        check, classes = self.self_check, len(self.class_labels)
        try:
            found_bytes = len(check.pixels)
        except binascii.Error as error:
            raise ValueError(f"self_check.pixels_base64: {error}") from error
        expected_bytes = check.images * math.prod(self.input.shape)
        _require(
            found_bytes == expected_bytes,
            f"self_check.pixels_base64: {found_bytes} bytes, expected {expected_bytes}",
        )
        if self.expected is not None:
            shares = self.expected.class_shares
            _require(len(shares) == classes, f"expected.class_shares: {len(shares)} values, expected {classes}")
            _require(abs(sum(shares) - 1) < 1e-6, f"expected.class_shares: sum {sum(shares):.6f}, expected 1")
        _require(
            len(check.member_probabilities) == len(self.members)
            and all(len(member) == check.images for member in check.member_probabilities)
            and all(len(image) == classes for member in check.member_probabilities for image in member),
            f"self_check.member_probabilities: expected {len(self.members)} members x {check.images} images "
            f"x {classes} classes",
        )
        return self


def read_manifest(folder: Path) -> Manifest:
    """Read and validate the manifest of the bundle in `folder`.

    Raises:
        ManifestError: It is missing, is no JSON, does not follow the schema, or contradicts itself or the
            folder that it lies in.
    """
    path = folder / MANIFEST_FILE
    try:
        manifest = Manifest.model_validate_json(_read_regular(path))
    except OSError as error:
        raise ManifestError(f"{path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise ManifestError(f"{path} does not follow the schema: {explain(error)}") from error
    placed = f"{folder.parent.name}/{folder.name}"
    if placed != f"{manifest.name}/{manifest.version}":
        raise ManifestError(f"{path} is of {manifest.name}/{manifest.version}, but lies in {placed}")
    return manifest


def _read_regular(path: Path) -> bytes:
    """Content of a file that lies in the bundle itself: a link would lead out of it, a pipe never end."""
    if path.is_symlink():
        raise OSError(errno.EINVAL, "it is a link, not a regular file in the bundle", str(path))
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file in the bundle", str(path))
        return file.read()


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Write `manifest.json` into `folder`."""
    (folder / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)


if __name__ == "__main__":
    print(json.dumps(Manifest.model_json_schema(), indent=2))
