"""Names for versions of a model, kept in `<name>/labels.json`: {"stable": 3, "canary": 4}.

Any label can be asked for by name. Two of them mean more: calls that name neither version nor label go to
`stable`, and of these a share may go to `canary`, or be shown to it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints, TypeAdapter, ValidationError

from machine.problems import explain
from serving.errors import BundleRefused

LABELS_FILE = "labels.json"
STABLE, CANARY = "stable", "canary"

LABEL_PATTERN = r"^[a-z][a-z0-9_-]{0,62}$"
Label = Annotated[str, StringConstraints(pattern=LABEL_PATTERN)]
Labels = dict[Label, Annotated[int, Field(strict=True, ge=1, le=2**31 - 1)]]
_LABELS = TypeAdapter(Labels)


def read_labels(folder: Path) -> Labels:
    """The labels of the model in `folder`; none where there is no file.

    Raises:
        BundleRefused: The file cannot be read, or is no JSON object of labels and versions.
    """
    name, file = f"{folder.name}/{LABELS_FILE}", folder / LABELS_FILE
    try:
        if file.exists() and not file.is_file():
            raise BundleRefused(f"{name} is not a regular file")
        return _LABELS.validate_json(file.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise BundleRefused(f"{name} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise BundleRefused(f"{name} is no object of labels and versions: {explain(error)}") from error


def write_labels(folder: Path, labels: Labels) -> None:
    """Replace the labels of the model in `folder`, in one step.

    Raises:
        BundleRefused: A label or version is not valid.
        OSError: The folder cannot be written to.
    """
    try:
        content = _LABELS.dump_json(_LABELS.validate_python(labels), indent=2)
    except ValidationError as error:
        raise BundleRefused(f"no labels and versions: {explain(error)}") from error
    unfinished = folder / f".{LABELS_FILE}.{os.getpid()}"
    try:
        unfinished.write_bytes(content + b"\n")
        unfinished.replace(folder / LABELS_FILE)
    finally:
        unfinished.unlink(missing_ok=True)  # where the disk is full, say
