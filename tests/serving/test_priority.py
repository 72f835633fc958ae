"""Threads that answer calls give way to the one that calls arrive on."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from serving.client import Client
from serving.priority import NICENESS
from serving.server import Server
from tests.serving.test_server import BLACK, target


def niceness(thread: threading.Thread) -> int:
    """By the kernel's own account."""
    stat = Path(f"/proc/self/task/{thread.native_id}/stat").read_text()
    return int(stat.rpartition(")")[2].split()[16])


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no niceness of their own")
def test_threads_that_answer_stand_back_and_the_one_that_receives_does_not(
    models: Path, start_server: Callable[..., Server]
) -> None:
    before = set(threading.enumerate())
    with Client(target(start_server(models, threads=2))) as client:
        client.classify(BLACK)
        found = {}
        for thread in set(threading.enumerate()) - before:
            with suppress(FileNotFoundError):  # it has ended meanwhile
                found[thread.name] = niceness(thread)
    ours = os.getpriority(os.PRIO_PROCESS, 0)
    behind = {name for name, value in found.items() if value == min(ours + NICENESS, 19)}
    assert behind == {"inference-0", "inference-1"}
    assert found["calls"] == ours
