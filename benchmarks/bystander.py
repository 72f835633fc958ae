"""How long the machine itself makes a process wait: a fixed piece of work, again and again, that asks no server.

Where other programs use the same cores, it tells which slow calls are the machine's and which are the server's.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass

PAUSE_SECONDS = 0.2
WORK_SECONDS = 0.006
"""Of a core that nobody else uses: about what a call of one image takes."""
BLOCK = bytes(2**16)


@dataclass(frozen=True)
class Lap:
    """One piece of work: when it was due, in seconds since the load began, and how long it took."""

    due: float
    seconds: float


def stand_by(seconds: float) -> list[Lap]:
    """Work a little at even intervals."""
    blocks = _blocks_for(WORK_SECONDS)
    began = time.perf_counter()
    laps: list[Lap] = []
    while (due := len(laps) * PAUSE_SECONDS) < seconds:
        time.sleep(max(0.0, began + due - time.perf_counter()))
        _work(blocks)
        laps.append(Lap(due, time.perf_counter() - began - due))
    return laps


def _work(blocks: int) -> None:
    for _ in range(blocks):
        hashlib.sha256(BLOCK)


def _blocks_for(seconds: float) -> int:
    """How many blocks take so much time of a core; the fastest of some tries, which nobody disturbed."""
    tries = []
    for _ in range(20):
        started = time.process_time()
        _work(10)
        tries.append(time.process_time() - started)
    return max(1, round(10 * seconds / min(tries)))
