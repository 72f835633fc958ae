"""Inference threads keep to a core each, until another program takes it."""

from __future__ import annotations

import math
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from serving import placement
from serving.client import Client
from serving.placement import LONG_SECONDS, LONGEST_PAUSE_SECONDS, SHORTEST_PAUSE_SECONDS, Place, place_of
from serving.server import Server
from tests.serving.test_server import BLACK, target

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="threads cannot be bound to cores")

CORES = os.sched_getaffinity(0) if sys.platform == "linux" else set()
NEEDS_CORES = pytest.mark.skipif(len(CORES) < 2, reason="on one core there is no choice")


class Clock:
    """Stands for `time`: what passes, and how much of it the thread runs, as a test says."""

    def __init__(self) -> None:
        self.now = self.ran = 100.0

    def perf_counter(self) -> float:
        """As `time.perf_counter`."""
        return self.now

    def thread_time(self) -> float:
        """As `time.thread_time`."""
        return self.ran

    def work(self, place: Place, seconds: float, share: float) -> set[int]:
        """Do work for so long, of which the thread runs a share; gives the cores that it may run on then."""
        with place:
            self.now += seconds
            self.ran += seconds * share
        return os.sched_getaffinity(0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Time as the test says."""
    clock = Clock()
    monkeypatch.setattr(placement, "time", clock)
    return clock


@pytest.fixture
def thread() -> Iterator[ThreadPoolExecutor]:
    """A thread to bind, which is not the test's own."""
    with ThreadPoolExecutor(1) as pool:
        yield pool


def test_servers_threads_keep_to_a_core_each_and_no_others_do(
    models: Path, start_server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "LONG_SECONDS", math.inf)  # whatever else this machine does meanwhile
    before = set(threading.enumerate())
    with Client(target(start_server(models, threads=len(CORES)))) as client:
        for _ in range(10):
            client.classify(BLACK)
    found = {
        one.name: os.sched_getaffinity(one.native_id or 0)
        for one in set(threading.enumerate()) - before
        if one.name == "calls" or one.name.startswith("inference-")
    }
    assert found.pop("calls") == CORES
    kept = {frozenset(cores) for cores in found.values()}
    assert kept <= {frozenset({core}) for core in CORES} | {frozenset(CORES)}  # all: where it had no work yet
    assert any(len(cores) == 1 for cores in kept)


@NEEDS_CORES
def test_threads_have_cores_of_their_own(thread: ThreadPoolExecutor) -> None:
    places = [place_of(number, len(CORES)) for number in range(len(CORES))]

    def cores_in(place: Place) -> set[int]:
        with place:
            return os.sched_getaffinity(0)

    found = [thread.submit(cores_in, place).result() for place in places if isinstance(place, Place)]
    assert sorted(found, key=min) == [{core} for core in sorted(CORES)]


@pytest.mark.parametrize("threads", [len(CORES) + 1, len(CORES) * 2])
def test_threads_are_left_alone_where_there_is_not_one_for_each_core(threads: int) -> None:
    assert not isinstance(place_of(0, threads), Place)


@NEEDS_CORES
def test_a_thread_whose_core_is_taken_goes_anywhere_for_a_while(thread: ThreadPoolExecutor, clock: Clock) -> None:
    core = min(CORES)

    def run() -> None:
        place = Place(core)
        assert clock.work(place, 10 * LONG_SECONDS, share=0.9) == {core}
        assert clock.work(place, 10 * LONG_SECONDS, share=0.1) == CORES
        assert clock.work(place, SHORTEST_PAUSE_SECONDS / 2, share=0.1) == CORES
        clock.now += SHORTEST_PAUSE_SECONDS * 2
        assert clock.work(place, 10 * LONG_SECONDS, share=0.9) == {core}

    thread.submit(run).result()


@NEEDS_CORES
def test_a_thread_that_waited_for_a_moment_keeps_its_core(thread: ThreadPoolExecutor, clock: Clock) -> None:
    core = max(CORES)

    def run() -> None:
        place = Place(core)
        for _ in range(100):
            assert clock.work(place, 0.9 * LONG_SECONDS, share=0.0) == {core}

    thread.submit(run).result()


@NEEDS_CORES
def test_the_longer_a_core_is_taken_the_more_seldom_it_is_tried(thread: ThreadPoolExecutor, clock: Clock) -> None:
    core = min(CORES)

    def pauses() -> list[float]:
        place, found = Place(core), []
        for _ in range(8):
            assert clock.work(place, 2 * LONG_SECONDS, share=0.1) == CORES
            began = clock.now
            while clock.work(place, LONG_SECONDS, share=1.0) == CORES:
                pass
            found.append(clock.now - began)
        return found

    found = thread.submit(pauses).result()
    assert found[0] == pytest.approx(2 * SHORTEST_PAUSE_SECONDS, abs=3 * LONG_SECONDS)
    assert found[-1] == found[-2] == pytest.approx(LONGEST_PAUSE_SECONDS, abs=3 * LONG_SECONDS)
    assert found == sorted(found)


@NEEDS_CORES
def test_after_a_good_while_a_core_is_tried_again_soon(thread: ThreadPoolExecutor, clock: Clock) -> None:
    core = min(CORES)

    def run() -> None:
        place = Place(core)
        for _ in range(8):
            clock.work(place, 2 * LONG_SECONDS, share=0.1)
            clock.now += LONGEST_PAUSE_SECONDS
            clock.work(place, LONG_SECONDS, share=1.0)
        clock.now += LONGEST_PAUSE_SECONDS
        assert clock.work(place, 2 * LONG_SECONDS, share=0.1) == CORES
        clock.now += SHORTEST_PAUSE_SECONDS * 2
        assert clock.work(place, LONG_SECONDS, share=1.0) == {core}

    thread.submit(run).result()


@NEEDS_CORES
def test_a_core_that_is_taken_from_this_program_is_not_insisted_on(
    thread: ThreadPoolExecutor, clock: Clock
) -> None:
    def run() -> None:
        place = Place(max(CORES) + 1000)  # as if the container had been moved to other cores
        assert clock.work(place, LONG_SECONDS, share=1.0) == CORES

    thread.submit(run).result()
