"""Who goes first where threads want more than the cores have, and which core a thread keeps to."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from serving.errors import SettingsError

NICENESS = 10
"""How far threads that compute stand back: one of them gets a ninth of what another gets of the same core."""


def stand_back() -> None:
    """Let the thread of the calls' event loop go before the one that asks for this (decision 22).

    Only Linux knows niceness of single threads; elsewhere, or where a sandbox forbids it, all stay alike.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            os.nice(NICENESS)


def cores_to_bind(threads: int) -> list[int]:
    """A core for each of so many threads: all that this process may run on.

    Raises:
        SettingsError: There are more cores, or fewer.
    """
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) != threads:
        raise SettingsError(
            f"bind_threads needs as many threads as cores: {threads} threads are to run on {len(cores)} cores; "
            "set threads, or let the server run on fewer cores (taskset, cpuset)"
        )
    return cores


def keep_to(core: int) -> None:
    """Let the thread that asks for this run on one core alone."""
    os.sched_setaffinity(0, {core})
