"""Files that are read again when they change: what is no good is refused, and what was good goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import structlog
from prometheus_client import Counter

from serving.errors import CredentialsRefused

POLL_SECONDS = 1.0
"""How long a change may go unnoticed. Files are looked at by content: that also sees changes on network volumes,
and those that keep a file's date."""

Loaded = TypeVar("Loaded")

log = structlog.get_logger()


class ReloadedFiles(Generic[Loaded]):
    """What some files say, as of the last time that it was good."""

    def __init__(
        self, kind: str, paths: Sequence[Path], load: Callable[[tuple[bytes, ...]], Loaded], reloads: Counter
    ) -> None:
        """Read the files for the first time.

        Args:
            kind: What they are, for log and metric.
            paths: The files.
            load: Makes something of their contents; raises CredentialsRefused if that cannot be.
            reloads: Counts by kind and outcome.

        Raises:
            CredentialsRefused: A file cannot be read, or `load` refuses.
        """
        self._kind = kind
        self._paths = tuple(paths)
        self._load = load
        self._loaded, self._refused = (reloads.labels(kind, outcome) for outcome in ("loaded", "refused"))
        contents = read_files(self._paths)
        self._seen: tuple[bytes, ...] | str = contents
        self.current: Loaded = load(contents)

    def reload(self) -> None:
        """Read the files again, and take what they say if it is new and good."""
        found = self._read()
        if found == self._seen:
            return
        self._seen = found
        try:
            self.current = self._load(_contents(found))
        except CredentialsRefused as error:
            self._refused.inc()
            log.error("credentials refused, the old ones go on", kind=self._kind, reason=str(error))  # noqa: TRY400  the reason says all
        else:
            self._loaded.inc()
            log.info("credentials loaded", kind=self._kind, files=[str(path) for path in self._paths])

    def _read(self) -> tuple[bytes, ...] | str:
        """The contents, or why they cannot be read: both are news only once."""
        try:
            return read_files(self._paths)
        except CredentialsRefused as error:
            return str(error)


def _contents(found: tuple[bytes, ...] | str) -> tuple[bytes, ...]:
    if isinstance(found, str):
        raise CredentialsRefused(found)
    return found


class Reloader:
    """Looks at files now and then, on a thread of its own."""

    def __init__(self, files: Sequence[ReloadedFiles[Any]]) -> None:
        self._files = files
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reload", daemon=True)
        if files:
            self._thread.start()

    def close(self) -> None:
        """Stop looking."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._closing.wait(POLL_SECONDS):
            for files in self._files:
                try:
                    files.reload()
                except Exception:
                    log.exception("credentials not looked at")  # but again, so that a token taken back is one


def read_files(paths: Sequence[Path]) -> tuple[bytes, ...]:
    """Their contents.

    Raises:
        CredentialsRefused: One cannot be read.
    """
    try:
        return tuple(path.read_bytes() for path in paths)
    except OSError as error:
        raise CredentialsRefused(f"{error.filename} cannot be read: {error.strerror}") from error
