"""What callers notice when one of three servers is killed under load: nothing, or the loss of its own calls."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from benchmarks.edge import Edge, run_envoy
from benchmarks.faults import balanced_channel, plain_channel
from benchmarks.fleet import Replica
from benchmarks.tally import Question, Tally, ask_while, questions_from
from serving.client import Client
from tests.conftest import run_server
from tests.end_to_end.conftest import targets_of
from tests.imaging.test_files import encode, gradient
from tests.serving.test_process import SLOW_FILES, wait_until_in_flight

CALLERS = 4


@pytest.fixture
def edge(replicas: list[Replica], tmp_path: Path) -> Iterator[Edge]:
    with run_envoy(targets_of(replicas), tmp_path) as edge:
        edge.wait_until_healthy(3)
        yield edge


class Load:
    """Callers that ask without pause, on one channel."""

    def __init__(self, channel: grpc.Channel, questions: list[Question]) -> None:
        self.tally = Tally()
        self._ended = threading.Event()
        self._thread = ThreadPoolExecutor(1)
        self._callers = self._thread.submit(
            ask_while, lambda: not self._ended.is_set(), channel, questions, CALLERS, self.tally
        )

    def wait_for_answers(self, count: int = 200) -> None:
        """Wait until so many more calls are answered."""
        wanted = self.tally.right + count
        for _ in range(3000):
            if self.tally.right >= wanted:
                return
            time.sleep(0.01)
        raise AssertionError(f"{wanted} right answers were expected in half a minute; there are {self.tally}")

    def end(self) -> None:
        """Let the last calls be answered."""
        self._ended.set()
        self._callers.result(30)
        self._thread.shutdown()


@contextmanager
def asking(channel: grpc.Channel, questions: list[Question]) -> Iterator[Load]:
    """Load while the block runs, from some time before it to some time after it."""
    load = Load(channel, questions)
    try:
        load.wait_for_answers()
        yield load
        load.wait_for_answers()
    finally:
        load.end()


def test_behind_envoy_every_call_is_answered_right(
    replicas: list[Replica], questions: list[Question], edge: Edge
) -> None:
    with plain_channel(edge.target) as channel, asking(channel, questions) as load:
        replicas[0].kill()
    replicas[0].start()
    assert (load.tally.wrong, dict(load.tally.failed)) == (0, {})
    assert edge.count("cluster.consort.upstream_rq_retry_success") > 0


def test_without_retries_only_calls_on_the_killed_server_fail(
    replicas: list[Replica], questions: list[Question], tmp_path: Path
) -> None:
    with run_envoy(targets_of(replicas), tmp_path, retries=False) as edge:
        edge.wait_until_healthy(3)
        with plain_channel(edge.target) as channel, asking(channel, questions) as load:
            replicas[1].kill()
        failures = edge.failures(load.tally.failed.total())
    replicas[1].start()
    assert load.tally.wrong == 0
    assert set(load.tally.failed) == {"UNAVAILABLE"}
    assert {failure["upstream"] for failure in failures} == {replicas[1].target}


def test_without_envoy_the_clients_own_retries_do(replicas: list[Replica], questions: list[Question]) -> None:
    with balanced_channel(targets_of(replicas)) as channel, asking(channel, questions) as load:
        replicas[2].kill()
    replicas[2].start()
    assert (load.tally.wrong, dict(load.tally.failed)) == (0, {})


def test_a_server_that_is_told_to_stop_fails_no_call(
    replicas: list[Replica], questions: list[Question], edge: Edge
) -> None:
    with plain_channel(edge.target) as channel, asking(channel, questions) as load:
        replicas[0].stop()
    replicas[0].start()
    assert (load.tally.wrong, dict(load.tally.failed)) == (0, {})
    assert replicas[0].overdue == 0


def test_what_one_server_has_no_room_for_another_answers(models: Path, tmp_path: Path) -> None:
    """RESOURCE_EXHAUSTED is retried elsewhere."""
    image = tmp_path / "image.png"
    image.write_bytes(encode(gradient()))
    with run_server(models, max_concurrent_calls=1) as full, run_server(models) as free:
        targets = [f"127.0.0.1:{server.grpc_port}" for server in (full, free)]
        questions = questions_from([image], "stub", targets[1])
        with (
            run_envoy(targets, tmp_path) as edge,
            plain_channel(edge.target) as channel,
            Client(targets[0], timeout_seconds=60) as client,
            ThreadPoolExecutor(1) as caller,
        ):
            edge.wait_until_healthy(2)
            place = caller.submit(client.classify, SLOW_FILES * 2)
            wait_until_in_flight(full.metrics_port)
            tally = Tally()
            ask_while(lambda: tally.right < 30, channel, questions, 1, tally)
            assert not place.done()
            assert edge.count("cluster.consort.upstream_rq_retry_success") > 0
            place.cancel()
    assert (tally.wrong, dict(tally.failed)) == (0, {})
