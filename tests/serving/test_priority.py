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
from serving.errors import SettingsError
from serving.priority import NICENESS
from serving.server import Server
from serving.settings import ServerSettings
from tests.serving.test_server import BLACK, target, wait_for


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


@pytest.mark.skipif(sys.platform != "linux", reason="threads cannot be bound to cores")
def test_threads_keep_to_a_core_each_where_they_are_told_to(
    models: Path, start_server: Callable[..., Server]
) -> None:
    cores = os.sched_getaffinity(0)
    before = set(threading.enumerate())
    server = start_server(models, threads=len(cores), bind_threads=True)
    inferring = [one for one in set(threading.enumerate()) - before if one.name.startswith("inference-")]
    wait_for(lambda: all(len(os.sched_getaffinity(one.native_id or 0)) == 1 for one in inferring))
    assert set.union(*(os.sched_getaffinity(one.native_id or 0) for one in inferring)) == cores
    with Client(target(server)) as client:
        client.classify(BLACK)
    assert os.sched_getaffinity(0) == cores


@pytest.mark.skipif(sys.platform != "linux", reason="threads cannot be bound to cores")
def test_threads_are_not_bound_where_there_are_more_cores_or_fewer(models: Path) -> None:
    cores = len(os.sched_getaffinity(0))
    with pytest.raises(SettingsError, match=f"{cores + 1} threads are to run on {cores} cores"):
        Server(ServerSettings(models=models, threads=cores + 1, bind_threads=True)).load()
