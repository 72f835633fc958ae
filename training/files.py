"""Writing a file so that a crash leaves the one that was there before, or the new one, whole."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

UNFINISHED = ".unfinished"
"""Ends the name of a file while it is written; a process that is killed then leaves it."""


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `path`, then move it there in one step, safely on disk."""
    unfinished = path.with_name(path.name + UNFINISHED)
    try:
        write(unfinished)
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def write_bytes_whole(path: Path, content: bytes) -> None:
    """`write_whole` for bytes."""
    write_whole(path, lambda unfinished: unfinished.write_bytes(content))


def write_text_whole(path: Path, text: str) -> None:
    """`write_whole` for text."""
    write_whole(path, lambda unfinished: unfinished.write_text(text, encoding="utf-8"))
