"""What lies in the models folder: bundles `<name>/<version>/`, and each model's labels.

Nothing is opened here. A file counts as unchanged while its inode, size, time of change, owner and permissions are
the same, which is seen by asking again and again: network volumes tell nobody when a file changes.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from watchdog.utils.dirsnapshot import DirectorySnapshot

from export.manifest import NAME_PATTERN
from serving.errors import BundleRefused
from serving.labels import LABELS_FILE

MODEL = re.compile(NAME_PATTERN)
VERSION = re.compile(r"[1-9]\d{0,9}", re.ASCII)
MOST_PARTS = 3
"""Of a path below the models folder: name, version, file."""
GONE = (FileNotFoundError, NotADirectoryError)
"""What the system says of a folder that somebody has removed or replaced meanwhile."""

File = tuple[str, int, int, int, int, int, int]
"""Name, inode, size in bytes, time of change in nanoseconds, and who may read it: mode, user, group."""


@dataclass(frozen=True)
class Bundle:
    """A bundle's folder.

    Attributes:
        name: Of the model, as the folder says.
        version: Of the model, as the folder says.
        folder: Where it lies.
        files: What lies in it.
        is_settled: Whether that was so when the models folder was last looked at: nobody is writing to it.
    """

    name: str
    version: int
    folder: Path
    files: frozenset[File]
    is_settled: bool = True


@dataclass(frozen=True)
class Contents:
    """Everything in a models folder, by model name.

    Attributes:
        bundles: By version.
        labels: The labels file, where there is one.
    """

    bundles: Mapping[str, Mapping[int, Bundle]] = field(default_factory=dict)
    labels: Mapping[str, File] = field(default_factory=dict)


def scan(models: Path, before: Contents | None = None, finished: str = "") -> Contents:
    """Look at a models folder; what is hidden in it is passed over.

    Args:
        models: The folder.
        before: What was in it at the last look; without it, all bundles count as settled.
        finished: Name of a model whose bundles count as settled, because somebody says so.

    Raises:
        BundleRefused: The folder, or a model's folder in it, is not there or cannot be read: what is in it is then
            not known, which is not the same as nothing.
    """
    try:
        snapshot = DirectorySnapshot(
            str(models), stat=partial(_ask, models), listdir=partial(_list_visible, models)
        )
    except OSError as error:
        raise BundleRefused(f"models folder {models} cannot be read: {error.strerror}") from error
    files: dict[tuple[str, int], set[File]] = {}
    labels: dict[str, File] = {}
    for path in map(os.fsdecode, snapshot.paths):
        match Path(path).relative_to(models).parts:
            case [name, version] if VERSION.fullmatch(version) and snapshot.isdir(path):
                files.setdefault((name, int(version)), set())
            case [name, file] if file == LABELS_FILE:
                labels[name] = _describe(file, snapshot.stat_info(path))
            case [name, version, file] if VERSION.fullmatch(version):
                described = _describe(file, snapshot.stat_info(path))
                files.setdefault((name, int(version)), set()).add(described)
    bundles: dict[str, dict[int, Bundle]] = {}
    for (name, number), found in sorted(files.items()):
        bundle = Bundle(name, number, models / name / str(number), frozenset(found))
        is_settled = before is None or name == finished or _holds(before, bundle)
        bundles.setdefault(name, {})[number] = dataclasses.replace(bundle, is_settled=is_settled)
    return Contents(bundles, labels)


def _list_visible(models: Path, folder: str | None) -> Iterator[os.DirEntry[str]]:
    """What a folder holds, down to the files of bundles; links that lead in circles end there too."""
    path = Path(folder or "")
    below = path.relative_to(models).parts
    try:
        entries = os.scandir(path) if len(below) < MOST_PARTS else ()
    except OSError as error:
        if not below or not isinstance(error, GONE):
            _refuse_unknown(models, below, error)
        raise
    return (entry for entry in entries if not entry.name.startswith("."))


def _ask(models: Path, path: str) -> os.stat_result:
    """What the system says of a file or folder."""
    try:
        return os.stat(path)  # noqa: PTH116  the very call that it stands for
    except OSError as error:
        if not isinstance(error, GONE) and error.errno != errno.ELOOP:
            _refuse_unknown(models, Path(path).relative_to(models).parts[:-1], error)
        raise


def _refuse_unknown(models: Path, folder: tuple[str, ...], error: OSError) -> None:
    """Refuse to say what is in the models folder, or in a model's; watchdog takes what it cannot read for gone.

    A bundle that cannot be read is refused when it is loaded, and folders that can be no model's, such as the
    lost+found of a volume, do not matter.
    """
    if len(folder) < MOST_PARTS - 1 and all(map(MODEL.fullmatch, folder)):
        where = models.joinpath(*folder)
        raise BundleRefused(f"models folder {where} cannot be read: {error.strerror}") from error


def _describe(name: str, stat: os.stat_result) -> File:
    return name, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_mode, stat.st_uid, stat.st_gid


def _holds(contents: Contents, bundle: Bundle) -> bool:
    before = contents.bundles.get(bundle.name, {}).get(bundle.version)
    return before is not None and before.files == bundle.files
