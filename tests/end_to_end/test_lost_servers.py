"""What callers notice when one of three servers is killed under load: nothing, or the loss of its own calls."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import HealthServicer

from benchmarks.edge import Edge, run_envoy
from benchmarks.faults import balanced_channel, plain_channel
from benchmarks.fleet import Replica
from benchmarks.tally import Question, Tally, ask_while, questions_from
from serving.client import Client
from tests.conftest import run_server
from tests.end_to_end.conftest import targets_of
from tests.imaging.test_files import encode, gradient
from tests.serving.test_process import SLOW_FILES, wait_until_in_flight
from tests.serving.test_server import PATIENCE_SECONDS, wait_for

CALLERS = 4
SIMULTANEOUS_CALLS = 60


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
        wait_for(lambda: self.tally.right >= wanted, 2 * PATIENCE_SECONDS)

    def end(self) -> None:
        """Let the last calls be answered."""
        self._ended.set()
        self._callers.result(PATIENCE_SECONDS)
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
        assert edge.count("cluster.consort.outlier_detection.ejections_enforced_total") > 0
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
            place = caller.submit(client.classify, SLOW_FILES * 4)
            wait_until_in_flight(full.metrics_port)
            tally = Tally()
            is_retried = partial(edge.count, "cluster.consort.upstream_rq_retry_success")
            ask_while(lambda: not is_retried() and not place.done(), channel, questions, 1, tally)
            assert is_retried() > 0
            place.cancel()
            assert (tally.wrong, dict(tally.failed)) == (0, {})


class Unavailable(grpc.GenericRpcHandler):
    """A server that says UNAVAILABLE of so many calls, all of them at once, and holds those that come later."""

    def __init__(self, calls: int) -> None:
        self._all_here = threading.Barrier(calls)
        self._left = threading.Semaphore(calls)
        self.may_end = threading.Event()

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        """As gRPC calls it."""
        return grpc.unary_unary_rpc_method_handler(self._refuse) if "Classify" in (details.method or "") else None

    def _refuse(self, _: bytes, context: grpc.ServicerContext) -> bytes:
        if self._left.acquire(blocking=False):
            self._all_here.wait(PATIENCE_SECONDS)
        else:
            self.may_end.wait(PATIENCE_SECONDS)
        context.abort(grpc.StatusCode.UNAVAILABLE, "not now")


@pytest.fixture
def unavailable() -> Iterator[tuple[Unavailable, str]]:
    """Such a server for sixty calls, whose health is good, and its address."""
    handler = Unavailable(SIMULTANEOUS_CALLS)
    server = grpc.server(ThreadPoolExecutor(2 * SIMULTANEOUS_CALLS), handlers=[handler])
    health = HealthServicer()
    health.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield handler, f"127.0.0.1:{port}"
    handler.may_end.set()
    server.stop(0).wait()


def test_a_server_that_fails_everything_is_not_drowned_in_retries(
    unavailable: tuple[Unavailable, str], tmp_path: Path
) -> None:
    """Sixty calls fail at once. Half of those in progress may be retried; the others fail for good."""
    handler, target = unavailable
    with run_envoy([target], tmp_path) as edge, plain_channel(edge.target) as channel:
        edge.wait_until_healthy(1)
        ask: Any = channel.unary_unary("/consort.v1.Classifier/Classify")
        calls = [ask.future(b"", timeout=PATIENCE_SECONDS) for _ in range(SIMULTANEOUS_CALLS)]
        wait_for(lambda: edge.count("cluster.consort.upstream_rq_retry_overflow") > 0)
        wait_for(lambda: edge.count("cluster.consort.upstream_rq_retry") > 0)
        wait_for(lambda: any(call.done() for call in calls))
        assert edge.count("cluster.consort.upstream_rq_retry") <= SIMULTANEOUS_CALLS // 2
        handler.may_end.set()
        assert {call.code() for call in calls} == {grpc.StatusCode.UNAVAILABLE}
