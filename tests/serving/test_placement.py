"""Inference threads keep to a core each, until another program takes it."""

from __future__ import annotations

import io
import math
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from serving import placement
from serving.client import Client
from serving.ensemble import Ensemble
from serving.placement import (
    LONGEST_PAUSE_SECONDS,
    SHORTEST_PAUSE_SECONDS,
    WINDOW_SECONDS,
    Place,
    place_of,
)
from serving.server import Server
from tests.bundles import StubMember, write_bundle
from tests.serving.test_server import BLACK, target

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="threads cannot be bound to cores")

CORES = os.sched_getaffinity(0) if sys.platform == "linux" else set()
NEEDS_CORES = pytest.mark.skipif(len(CORES) < 2, reason="on one core there is no choice")
WINDOW = 1.01 * WINDOW_SECONDS
"""Of work, so that rounding leaves no window open."""
UNKNOWN = "/nowhere/{}"
"""Where nothing is told of cores that are halves of one, as this machine's may be."""


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
    """Each member of a call waits until all threads have one."""
    monkeypatch.setattr(placement, "WINDOW_SECONDS", math.inf)  # whatever else this machine does meanwhile
    monkeypatch.setattr(placement, "SIBLINGS", UNKNOWN)
    together = threading.Barrier(len(CORES))
    run_member = Ensemble.run_member

    def run_together(*arguments: Any) -> Any:
        together.wait(60)
        return run_member(*arguments)

    picture = io.BytesIO()
    Image.fromarray(BLACK[0, 0]).save(picture, "PNG")
    write_bundle(models, [StubMember((0.7, 0.2, 0.1))] * len(CORES), version=2)
    before = set(threading.enumerate())
    server = start_server(models, threads=len(CORES))
    monkeypatch.setattr(Ensemble, "run_member", run_together)
    with Client(target(server)) as client:
        client.classify(BLACK)
        client.classify([picture.getvalue()])
    cores = {one: os.sched_getaffinity(one.native_id or 0) for one in threading.enumerate()}
    inference = {one for one in cores if one.name.startswith("inference-")}
    assert sorted((cores[one] for one in inference - before), key=min) == [{core} for core in sorted(CORES)]
    others = cores.keys() - inference
    assert {one.name.partition("_")[0] for one in others} >= {"MainThread", "calls", "files"}
    assert all(cores[one] == CORES for one in others)


@NEEDS_CORES
def test_threads_have_cores_of_their_own(thread: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "SIBLINGS", UNKNOWN)
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
    """By another program that is treated alike, and leaves half of it."""
    core = min(CORES)

    def run() -> None:
        place = Place(core)
        assert clock.work(place, WINDOW, share=0.9) == {core}
        assert clock.work(place, WINDOW, share=0.49) == CORES
        assert clock.work(place, 0.9 * SHORTEST_PAUSE_SECONDS, share=0.1) == CORES
        assert clock.work(place, 0.2 * SHORTEST_PAUSE_SECONDS, share=0.1) == CORES
        assert clock.work(place, WINDOW, share=0.9) == {core}

    thread.submit(run).result()


@NEEDS_CORES
def test_many_short_pieces_of_work_say_as_much_as_a_long_one(thread: ThreadPoolExecutor, clock: Clock) -> None:
    core = min(CORES)

    def run() -> None:
        place = Place(core)
        for _ in range(49):
            assert clock.work(place, WINDOW_SECONDS / 50, share=0.49) == {core}
        for _ in range(2):
            where = clock.work(place, WINDOW_SECONDS / 50, share=0.49)
        assert where == CORES

    thread.submit(run).result()


@NEEDS_CORES
def test_a_thread_that_waited_for_a_moment_keeps_its_core(thread: ThreadPoolExecutor, clock: Clock) -> None:
    core = max(CORES)

    def run() -> None:
        place = Place(core)
        for _ in range(100):
            assert clock.work(place, WINDOW_SECONDS / 5, share=0.0) == {core}
            assert clock.work(place, WINDOW, share=0.9) == {core}

    thread.submit(run).result()


@NEEDS_CORES
def test_a_thread_that_seldom_has_work_is_no_sooner_bound_again(thread: ThreadPoolExecutor, clock: Clock) -> None:
    """Else each of its calls would find its core taken, and none would be let go in time."""
    core = min(CORES)

    def run() -> None:
        place = Place(core)
        assert clock.work(place, WINDOW, share=0.1) == CORES
        for _ in range(9):
            clock.now += 3.0
            assert clock.work(place, SHORTEST_PAUSE_SECONDS / 10, share=0.1) == CORES

    thread.submit(run).result()


def work_until_bound(place: Place, clock: Clock) -> float:
    """Seconds of work that a thread does wherever it likes."""
    began = clock.now
    while clock.work(place, WINDOW_SECONDS / 5, share=1.0) == CORES:
        pass
    return clock.now - began


@NEEDS_CORES
def test_the_longer_a_core_is_taken_the_more_seldom_it_is_tried(thread: ThreadPoolExecutor, clock: Clock) -> None:
    def pauses() -> list[float]:
        place, found = Place(min(CORES)), []
        for _ in range(8):
            assert clock.work(place, WINDOW, share=0.1) == CORES
            found.append(work_until_bound(place, clock))
        return found

    found = thread.submit(pauses).result()
    assert found[0] == pytest.approx(SHORTEST_PAUSE_SECONDS, abs=WINDOW_SECONDS)
    assert found[-1] == found[-2] == pytest.approx(LONGEST_PAUSE_SECONDS, abs=WINDOW_SECONDS)
    assert found == sorted(found)


@NEEDS_CORES
def test_after_a_good_while_a_core_is_tried_again_soon(thread: ThreadPoolExecutor, clock: Clock) -> None:
    def last_pause() -> float:
        place = Place(min(CORES))
        for _ in range(8):
            assert clock.work(place, WINDOW, share=0.1) == CORES
            work_until_bound(place, clock)
        clock.work(place, LONGEST_PAUSE_SECONDS, share=1.0)
        assert clock.work(place, WINDOW, share=0.1) == CORES
        return work_until_bound(place, clock)

    assert thread.submit(last_pause).result() == pytest.approx(SHORTEST_PAUSE_SECONDS, abs=WINDOW_SECONDS)


@NEEDS_CORES
def test_cores_that_somebody_takes_from_the_process_are_left_alone(
    thread: ThreadPoolExecutor, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `taskset --all-tasks --pid` does, or a container that is given others."""
    left, core = {min(CORES)}, max(CORES)

    def run() -> None:
        place = Place(core)
        assert clock.work(place, WINDOW, share=0.9) == {core}
        monkeypatch.setattr(placement, "_cores_of_process", lambda: left)
        os.sched_setaffinity(0, left)
        assert clock.work(place, WINDOW, share=0.1) == left, "let go to these, and to no others"
        for _ in range(100):
            assert clock.work(place, WINDOW, share=1.0) == left, "and not bound again"

    thread.submit(run).result()


@pytest.mark.parametrize(
    ("siblings", "is_bound"),
    [
        (["0", "1", "2", "3"], True),
        (["0-1", "0-1"], True),
        (["0-1", "0-1", "2-3", "2-3"], False),
        (["0,4", "1,5", "2,6", "3,7"], True),
    ],
    ids=["whole cores", "the halves of one", "the halves of two", "a half of each of four"],
)
def test_halves_of_cores_are_left_to_linux_where_it_can_choose_a_whole_one(
    siblings: list[str], is_bound: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for core, text in enumerate(siblings):
        (tmp_path / str(core)).write_text(f"{text}\n")
    monkeypatch.setattr(placement, "SIBLINGS", f"{tmp_path}/{{}}")
    monkeypatch.setattr(placement, "_cores_of_process", lambda: set(range(len(siblings))))
    assert isinstance(place_of(0, len(siblings)), Place) == is_bound
