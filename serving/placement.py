"""The core that an inference thread keeps to, for as long as it gets its share of it (decision 31).

Left alone, Linux often lets two threads that compute take turns on one core for milliseconds, while another is
idle. Bound for good, a thread would wait wherever another program takes its core.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import AbstractContextManager, nullcontext, suppress

LONG_SECONDS = 0.01
"""Work that took less time says nothing: others of this process take a core for some milliseconds too."""
FAIR_SHARE = 0.2
"""Of its core, below which another program has taken it. Next to one, a thread that stands back gets a ninth."""
SHORTEST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 2.0
"""How long a thread goes wherever it likes: longer each time that its core is taken again soon."""


def place_of(thread: int, threads: int) -> AbstractContextManager[object]:
    """What a thread, counted from 0, of so many does each piece of work in.

    On Linux, where there is a core for each thread that this process may run on, and no more: its own.
    """
    if sys.platform == "linux" and len(cores := os.sched_getaffinity(0)) == threads:
        return Place(sorted(cores)[thread])
    return nullcontext()


class Place:
    """Binds the thread that enters it to a core, and lets it go for a while when that core is taken.

    One thread enters it, for each piece of work.
    """

    def __init__(self, core: int) -> None:
        self._core = {core}
        self._all = os.sched_getaffinity(0)
        self._is_bound = False
        self._bound_at = 0.0
        self._free_until = 0.0
        self._pause_seconds = SHORTEST_PAUSE_SECONDS

    def __enter__(self) -> None:
        self._began, self._ran = time.perf_counter(), time.thread_time()
        if not self._is_bound and self._began >= self._free_until:
            self._is_bound, self._bound_at = True, self._began
            _run_on(self._core)

    def __exit__(self, *_: object) -> None:
        if not self._is_bound:
            return
        now = time.perf_counter()
        seconds = now - self._began
        if seconds > LONG_SECONDS and time.thread_time() - self._ran < FAIR_SHARE * seconds:
            self._go_free(now)

    def _go_free(self, now: float) -> None:
        taken_soon = now - self._bound_at < LONGEST_PAUSE_SECONDS
        self._pause_seconds = (
            min(2 * self._pause_seconds, LONGEST_PAUSE_SECONDS) if taken_soon else SHORTEST_PAUSE_SECONDS
        )
        self._is_bound, self._free_until = False, now + self._pause_seconds
        _run_on(self._all)


def _run_on(cores: set[int]) -> None:
    """Let the thread that asks run on these cores, or go on as it is where they were taken from this process."""
    with suppress(OSError):
        os.sched_setaffinity(0, cores)
