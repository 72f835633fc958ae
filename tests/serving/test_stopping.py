"""Alive and ready are two questions; what was accepted before the end is answered."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from h2.settings import SettingCodes

from benchmarks.fuzzing.peers import Peer
from protos.consort.v1 import classifier_pb2_grpc
from protos.open_inference.v2 import grpc_service_pb2 as open_inference
from protos.open_inference.v2 import grpc_service_pb2_grpc as open_inference_grpc
from serving.health import check
from serving.readiness import LIVENESS
from serving.server import FLUSH_SECONDS, OPEN_INFERENCE_SERVICE, SERVICE, Server
from tests.serving.test_process import serving
from tests.serving.test_server import raw, target, wait_for

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
CALLERS = 8
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
NUMBERS_OF_WORKERS = pytest.mark.parametrize("workers", ["1", "2"])


def status(channel: grpc.Channel, service: str) -> int:
    stub: Any = health_pb2_grpc.HealthStub(channel)  # its type stubs name no methods
    return int(stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=60).status)


def test_a_server_that_drains_is_alive_and_not_ready(models: Path, start_server: Callable[..., Server]) -> None:
    """For as long as the delay lasts calls are still taken."""
    server = start_server(models, drain_delay_seconds=5)
    services = ("", SERVICE, OPEN_INFERENCE_SERVICE)
    with grpc.insecure_channel(target(server)) as channel:
        other = open_inference_grpc.GRPCInferenceServiceStub(channel)
        assert {status(channel, service) for service in (*services, LIVENESS)} == {SERVING}
        assert other.ServerReady(open_inference.ServerReadyRequest(), timeout=60).ready
        draining = threading.Thread(target=server.drain)
        draining.start()
        wait_for(lambda: status(channel, "") == NOT_SERVING)
        assert {status(channel, service) for service in services} == {NOT_SERVING}
        assert status(channel, LIVENESS) == SERVING
        assert not other.ServerReady(open_inference.ServerReadyRequest(), timeout=60).ready
        assert not other.ModelReady(open_inference.ModelReadyRequest(name="stub"), timeout=60).ready
        assert other.ServerLive(open_inference.ServerLiveRequest(), timeout=60).live
        answer = classifier_pb2_grpc.ClassifierStub(channel).Classify(raw(), timeout=60)
        assert len(answer.classifications) == 1
        draining.join()


def test_the_command_asks_either_question(
    models: Path, start_server: Callable[..., Server], capsys: pytest.CaptureFixture[str]
) -> None:
    server = start_server(models)
    assert (check(target(server)), check(target(server), LIVENESS)) == (0, 0)
    assert check(target(server), "nothing") == 1
    assert "NOT_FOUND" in capsys.readouterr().err


def test_neither_an_idle_connection_nor_an_open_stream_holds_up_the_end(
    models: Path, start_server: Callable[..., Server]
) -> None:
    """A peer that does not close its connection when it is told to, and one that waits for more of a stream."""
    server, over = start_server(models, grace_seconds=600), threading.Event()
    with Peer(target(server)) as peer, grpc.insecure_channel(target(server)) as channel:
        peer.receive()
        ask: Any = channel.stream_stream(REFLECTION)
        replies = ask(iter(over.wait, True))
        arrived = {"method": "ServerReflectionInfo"}
        wait_for(lambda: server.registry.get_sample_value("consort_arrived_calls_total", arrived) == 1)
        draining = threading.Thread(target=server.drain)
        draining.start()
        with pytest.raises(grpc.RpcError) as ended:
            next(replies)
        assert ended.value.code() == grpc.StatusCode.CANCELLED
        assert ended.value.details() == "the server has ended the stream"
        draining.join(60)
        assert not draining.is_alive()
        over.set()


def test_a_reply_that_is_read_slowly_is_waited_for(models: Path, start_server: Callable[..., Server]) -> None:
    """By HTTP/2's flow control, which lets the rest through when the server has long been told to stop."""
    server = start_server(models, grace_seconds=600)
    question = raw(bytes(20 * 16), (20, 1, 4, 4))
    with grpc.insecure_channel(target(server)) as channel:
        reply = classifier_pb2_grpc.ClassifierStub(channel).Classify(question, timeout=60)
    with Peer(target(server)) as peer:
        peer.http.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 100})
        call = peer.begin("/consort.v1.Classifier/Classify")
        peer.send(call, question.SerializeToString())
        labels = {"method": "Classify", "code": "OK"}
        wait_for(lambda: server.registry.get_sample_value("consort_call_seconds_count", labels) == 2)
        draining = threading.Thread(target=server.drain)
        draining.start()
        draining.join(4 * FLUSH_SECONDS)
        assert draining.is_alive()
        peer.http.increment_flow_control_window(100_000, call)
        peer.flush()
        received = b"".join(iter(lambda: peer.socket.recv(65536), b""))
    assert len(received) > reply.ByteSize()
    draining.join(60)
    assert not draining.is_alive()


class Callers:
    """Callers in a closed loop, each call with an id of its own, until the server is no longer there."""

    def __init__(self, port: int, *, heed_health: bool) -> None:
        self._target = f"127.0.0.1:{port}"
        self._heed_health = heed_health
        self._not_serving = threading.Event()
        self.codes: dict[str, grpc.StatusCode] = {}
        self._pool = ThreadPoolExecutor(CALLERS + 1)
        self._watching = self._pool.submit(self._watch)
        self._calling = [self._pool.submit(self._call, number) for number in range(CALLERS)]

    def wait(self) -> None:
        """Wait until all have left."""
        for one in (*self._calling, self._watching):
            one.result(60)
        self._pool.shutdown()

    def _call(self, number: int) -> None:
        with grpc.insecure_channel(self._target) as channel:
            stub = classifier_pb2_grpc.ClassifierStub(channel)
            for turn in range(100_000):
                if self._heed_health and self._not_serving.is_set():
                    return
                name = f"{number}-{turn}"
                call = stub.Classify.future(raw(), timeout=60, metadata=(("x-request-id", name),))
                call.exception()
                self.codes[name] = call.code()
                if call.code() is not grpc.StatusCode.OK:
                    return

    def _watch(self) -> None:
        with grpc.insecure_channel(self._target) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)  # its type stubs name no methods
            try:
                for reply in stub.Watch(health_pb2.HealthCheckRequest()):
                    if reply.status == NOT_SERVING:
                        self._not_serving.set()
            except grpc.RpcError:  # the server is gone
                self._not_serving.set()


@NUMBERS_OF_WORKERS
def test_sigterm_under_load_fails_no_call_that_was_accepted(models: Path, workers: str) -> None:
    """The access log names those that were accepted: all were answered.

    Of the others gRPC says UNAVAILABLE, or CANCELLED where they came at the very moment.
    """
    everything = ("--access-log-share", "1", "--access-log-error-share", "1")
    several = ("--workers", workers, "--threads", "2")
    with serving("--models", str(models), *everything, *several, "--grace-seconds", "20") as (process, event):
        callers = Callers(event["grpc_port"], heed_health=False)
        wait_for(lambda: len(callers.codes) > 5 * CALLERS)
        process.send_signal(signal.SIGTERM)
        stopped = time.monotonic()
        assert process.stderr is not None
        events = [json.loads(line) for line in process.stderr]
        assert process.wait(30) == 0
        assert time.monotonic() - stopped < 20, "within the grace"
        callers.wait()
    accepted = {one["request_id"]: one["code"] for one in events if one["event"] == "call"}
    assert set(accepted.values()) == {"OK"}
    answered = {name for name, code in callers.codes.items() if code is grpc.StatusCode.OK}
    assert answered == set(accepted)
    others = {code for name, code in callers.codes.items() if name not in accepted}
    assert others <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}


@NUMBERS_OF_WORKERS
def test_with_a_delay_callers_who_heed_the_health_see_no_failure_at_all(models: Path, workers: str) -> None:
    several = ("--workers", workers, "--threads", "2")
    with serving("--models", str(models), *several, "--drain-delay-seconds", "5") as (process, event):
        callers = Callers(event["grpc_port"], heed_health=True)
        wait_for(lambda: len(callers.codes) > 5 * CALLERS)
        process.send_signal(signal.SIGTERM)
        callers.wait()
        assert process.wait(30) == 0
    assert set(callers.codes.values()) == {grpc.StatusCode.OK}
