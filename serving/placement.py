"""The core that an inference thread keeps to, for as long as it gets most of it (decisions 31 and 32).

Left alone, Linux often lets two threads that compute take turns on one core for milliseconds, while another is
idle. Bound for good, a thread would wait wherever another program takes its core.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Set
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path

WINDOW_SECONDS = 0.05
"""Of work, over which a thread's share of its core is measured: single pieces of work say little."""
FAIR_SHARE = 0.5
"""Of its core, below which another program has taken it: one that is treated alike leaves half, and other threads
of the server take some of that."""
SHORTEST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 2.0
"""How much work a thread does wherever it likes: more each time that its core is taken again soon."""
SIBLINGS = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


def place_of(thread: int, threads: int) -> AbstractContextManager[object]:
    """What a thread, counted from 0, of so many does each piece of work in.

    On Linux, where there is a core for each thread that this process may run on, and no more: its own.
    """
    if sys.platform != "linux":
        return nullcontext()
    cores = _cores_of_process()
    return Place(sorted(cores)[thread]) if len(cores) == threads and _are_equal(cores) else nullcontext()


class Place:
    """Binds the thread that enters it to a core, and lets it go for a while when that core is taken.

    One thread enters it, for each piece of work. All times are of work: a thread that seldom has any is no sooner
    bound again.
    """

    def __init__(self, core: int) -> None:
        self._core = core
        self._is_bound = False
        self._bound_seconds = 0.0
        self._free_seconds = 0.0
        self._pause_seconds = SHORTEST_PAUSE_SECONDS / 2
        self._begin_window()

    def __enter__(self) -> None:
        if not self._is_bound and self._free_seconds <= 0:
            self._bind()
        self._began, self._ran = time.perf_counter(), time.thread_time()

    def __exit__(self, *_: object) -> None:
        seconds = time.perf_counter() - self._began
        if not self._is_bound:
            self._free_seconds -= seconds
            return
        self._window_seconds += seconds
        self._window_ran += time.thread_time() - self._ran
        if self._window_seconds >= WINDOW_SECONDS:
            self._bound_seconds += self._window_seconds
            if self._window_ran < FAIR_SHARE * self._window_seconds:
                self._go_free()
            self._begin_window()

    def _begin_window(self) -> None:
        self._window_seconds = self._window_ran = 0.0

    def _bind(self) -> None:
        """Keep to the core, unless somebody has taken it from this process since."""
        self._is_bound, self._bound_seconds = True, 0.0
        if self._core in _cores_of_process():
            _run_on({self._core})
        else:
            self._go_free()

    def _go_free(self) -> None:
        taken_soon = self._bound_seconds < LONGEST_PAUSE_SECONDS
        self._pause_seconds = (
            min(2 * self._pause_seconds, LONGEST_PAUSE_SECONDS) if taken_soon else SHORTEST_PAUSE_SECONDS
        )
        self._is_bound, self._free_seconds = False, self._pause_seconds
        _run_on(_cores_of_process())


def _cores_of_process() -> set[int]:
    """Where the main thread may run, which is never bound: as it was started, or as somebody has changed it."""
    return os.sched_getaffinity(os.getpid())


def _are_equal(cores: Set[int]) -> bool:
    """Whether it does not matter which of the cores that are idle a thread takes.

    It does where some are two halves of one while others are not in use at all: Linux looks for those.
    """
    return len({_siblings_of(core) for core in cores}) in (1, len(cores))


def _siblings_of(core: int) -> str:
    """The halves of the core that it is one of; itself alone where the machine does not tell."""
    try:
        return Path(SIBLINGS.format(core)).read_text(encoding="ascii")
    except OSError:
        return str(core)


def _run_on(cores: Set[int]) -> None:
    """Let the thread that asks run on these cores, or go on as it is where they were taken meanwhile."""
    with suppress(OSError):
        os.sched_setaffinity(0, cores)
