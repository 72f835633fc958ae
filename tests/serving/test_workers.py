"""Several processes that serve as one: they share a port, are counted together, replaced and drained."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from protos.consort.v1 import classifier_pb2 as pb
from protos.consort.v1 import classifier_pb2_grpc
from serving import supervisor
from serving.channel import Credentials
from serving.errors import SettingsError, WorkerLost
from serving.server import Server
from serving.settings import ServerSettings, read_settings
from serving.supervisor import CORES_PER_WORKER, Supervisor, count_workers, share_threads
from serving.token import add_token
from tests.bundles import TWO_MEMBERS, write_bundle
from tests.serving.test_process import ROOT, SERVE, serving
from tests.serving.test_server import PATIENCE_SECONDS, raw, wait_for, wait_until_refused

CALLERS = 20
"""Enough connections that one of two workers gets none of them once in 500,000 runs."""
OPTIONS = [("grpc.use_local_subchannel_pool", 1)]  # a connection of its own for every channel
EVERYTHING = ("--access-log-share", "1", "--access-log-error-share", "1")
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@dataclass
class Running:
    """A server with workers, and what its log says until now."""

    process: subprocess.Popen[str]
    grpc_port: int
    metrics_port: int
    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    def worker_pids(self) -> list[int]:
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def scrape(self) -> Samples:
        """Every sample by its name and labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=10) as reply:
            families = text_string_to_metric_families(reply.read().decode())
        return {(one.name, frozenset(one.labels.items())): one.value for each in families for one in each.samples}

    def value(self, name: str, **labels: str) -> float:
        """A sample; 0 where there is none."""
        return self.scrape().get((name, frozenset(labels.items())), 0.0)

    def saw(self, event: str, **fields: object) -> bool:
        """Whether the log tells of an event."""
        return any(one["event"] == event and fields.items() <= one.items() for one in list(self.events))

    def answered_by(self) -> dict[str, int]:
        """Which worker took each call, by the call's id."""
        return {one["request_id"]: one["worker"] for one in list(self.events) if one["event"] == "call"}

    def call_once(self, name: str = "once", **asked: Any) -> pb.ClassifyResponse:
        """One call on a connection of its own."""
        with grpc.insecure_channel(self.target, options=OPTIONS) as channel:
            stub = classifier_pb2_grpc.ClassifierStub(channel)
            return stub.Classify(raw(**asked), timeout=30, metadata=(("x-request-id", name),))

    def call_many(self, prefix: str) -> list[pb.ClassifyResponse]:
        """As many connections as there are callers, a call on each."""
        with ThreadPoolExecutor(CALLERS) as pool:
            return list(pool.map(self.call_once, (f"{prefix}-{number}" for number in range(CALLERS))))

    def codes(self, token: str) -> set[grpc.StatusCode]:
        """How calls on many connections end that show a token."""
        found = set()
        for _ in range(CALLERS):
            with grpc.insecure_channel(self.target, options=OPTIONS) as channel:
                stub = classifier_pb2_grpc.ClassifierStub(channel)
                call = stub.Classify.future(raw(), timeout=30, metadata=Credentials(token=token).metadata)
                call.exception()
                found.add(call.code())
        return found

    def stop(self) -> int:
        """End it, with all of its log read."""
        self.process.terminate()
        return self.process.wait(30)


@contextmanager
def running(models: Path, *arguments: str) -> Iterator[Running]:
    """A server of two workers."""
    with serving("--models", str(models), "--workers", "2", "--threads", "2", *arguments) as (process, ready):
        server = Running(process, ready["grpc_port"], ready["metrics_port"])
        assert process.stderr is not None
        log = process.stderr
        reader = threading.Thread(target=lambda: server.events.extend(map(json.loads, log)))
        reader.start()
        yield server
        process.kill()
        reader.join()


class Callers:
    """Callers in a closed loop, each on a connection of its own; one that fails connects anew."""

    def __init__(self, server: Running) -> None:
        self._server = server
        self._enough = threading.Event()
        self.codes: list[list[tuple[str, grpc.StatusCode]]] = [[] for _ in range(CALLERS)]
        """Of each caller the calls, in order."""
        self._pool = ThreadPoolExecutor(CALLERS)
        self._calling = [self._pool.submit(self._call, number) for number in range(CALLERS)]

    def finish(self) -> None:
        """Let all end."""
        self._enough.set()
        for one in self._calling:
            one.result(60)
        self._pool.shutdown()

    def wait_for_calls(self, calls: int) -> None:
        """Wait until each caller has made so many more."""
        goals = [len(codes) + calls for codes in self.codes]
        wait_for(lambda: all(len(codes) >= goal for codes, goal in zip(self.codes, goals, strict=True)))

    def _call(self, number: int) -> None:
        while not self._enough.is_set():
            with grpc.insecure_channel(self._server.target, options=OPTIONS) as channel:
                self._call_until_one_fails(number, channel)

    def _call_until_one_fails(self, number: int, channel: grpc.Channel) -> None:
        stub = classifier_pb2_grpc.ClassifierStub(channel)
        while not self._enough.is_set():
            name = f"{number}-{len(self.codes[number])}"
            call = stub.Classify.future(raw(), timeout=30, metadata=(("x-request-id", name),))
            call.exception()
            self.codes[number].append((name, call.code()))
            if call.code() is not grpc.StatusCode.OK:
                return


class Watch:
    """Reads the metrics and tries the port, again and again."""

    def __init__(self, server: Running) -> None:
        self._server = server
        self._enough = threading.Event()
        self.scrapes: list[Samples] = []
        self.refusals = 0
        self._threads = [
            threading.Thread(target=self._repeat, args=(one,)) for one in (self._scrape, self._connect)
        ]
        for thread in self._threads:
            thread.start()

    def finish(self) -> None:
        """Let both end."""
        self._enough.set()
        for thread in self._threads:
            thread.join()

    def decreases(self) -> list[str]:
        """Counts that were once told lower than before."""
        return [
            name
            for before, after in zip(self.scrapes, self.scrapes[1:], strict=False)
            for (name, labels), value in before.items()
            if name.endswith(("_total", "_count", "_sum", "_bucket")) and after.get((name, labels), 0.0) < value
        ]

    def _repeat(self, look: Callable[[], None]) -> None:
        while not self._enough.wait(0.01):
            look()

    def _scrape(self) -> None:
        self.scrapes.append(self._server.scrape())

    def _connect(self) -> None:
        """A worker that is killed takes connections with it that are being made: they are reset, not refused."""
        try:
            socket.create_connection(("127.0.0.1", self._server.grpc_port), timeout=10).close()
        except ConnectionRefusedError:
            self.refusals += 1
        except ConnectionResetError:
            pass


def test_calls_on_many_connections_reach_all_workers_and_are_counted_once(models: Path) -> None:
    with running(models, *EVERYTHING) as server:
        replies = server.call_many("call")
        assert [len(reply.classifications) for reply in replies] == [1] * CALLERS
        assert server.value("consort_call_seconds_count", method="Classify", code="OK") == CALLERS
        assert server.value("consort_arrived_calls_total", method="Classify") == CALLERS
        predicted = [value for (name, _), value in server.scrape().items() if name == "consort_predictions_total"]
        assert sum(predicted) == CALLERS
        model = {"model": "stub", "version": "1", "members": "2", "provider": "cpu"}
        assert server.value("consort_model_info", **model) == 1
        assert server.value("consort_workers") == 2
        wait_for(lambda: len(server.answered_by()) == CALLERS)
    assert set(server.answered_by().values()) == {1, 2}


@dataclass(frozen=True)
class Loss:
    """What was seen when a worker was killed under load, and replaced."""

    callers: Callers
    watch: Watch
    killed: int
    answered_by: dict[str, int]
    after: list[pb.ClassifyResponse]


@pytest.fixture(scope="module")
def loss(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loss]:
    """Worker 1 or 2 is killed with -9 while all callers are at it."""
    models = tmp_path_factory.mktemp("models")
    write_bundle(models)
    with running(models, *EVERYTHING) as server:
        callers, watch = Callers(server), Watch(server)
        callers.wait_for_calls(5)
        os.kill(server.worker_pids()[0], signal.SIGKILL)
        wait_for(lambda: server.value("consort_lost_workers_total") == 1)
        wait_for(lambda: server.value("consort_workers") == 2)
        callers.wait_for_calls(5)
        callers.finish()
        after = server.call_many("after")
        watch.finish()
        (lost,) = [one["worker"] for one in server.events if one["event"] == "worker lost"]
        wait_for(lambda: {f"after-{number}" for number in range(CALLERS)} <= server.answered_by().keys())
        yield Loss(callers, watch, lost, server.answered_by(), after)


class TestALostWorker:
    def test_only_its_own_callers_notice(self, loss: Loss) -> None:
        """The calls before one that failed, on the same connection, went to the worker that was killed.

        So the log says, which may lack what that worker was about to write.
        """
        first_failures = 0
        for codes in loss.callers.codes:
            failed = [turn for turn, (_, code) in enumerate(codes) if code is not grpc.StatusCode.OK]
            if failed:
                assert {codes[turn][1] for turn in failed} == {grpc.StatusCode.UNAVAILABLE}
                before = [loss.answered_by.get(name) for name, _ in codes[: failed[0]]]
                assert {worker for worker in before if worker is not None} == {loss.killed}
                first_failures += 1
        assert 0 < first_failures < CALLERS

    def test_the_port_stays_open(self, loss: Loss) -> None:
        assert loss.watch.refusals == 0

    def test_it_is_replaced(self, loss: Loss) -> None:
        after = {loss.answered_by[f"after-{number}"] for number in range(CALLERS)}
        assert after == {1, 2}
        assert len(loss.after) == CALLERS

    def test_no_counter_goes_backwards(self, loss: Loss) -> None:
        assert len(loss.watch.scrapes) > 5
        assert loss.watch.decreases() == []


def test_a_new_version_goes_live_in_all_workers(models: Path) -> None:
    with running(models, "--watch-seconds", "0.1") as server:
        watch = Watch(server)
        write_bundle(models, version=2)
        wait_for(lambda: server.value("consort_model_unloads_total", model="stub") == 2)
        watch.finish()
        assert {reply.model_version for reply in server.call_many("new")} == {2}
        info = [dict(labels) for name, labels in server.scrape() if name == "consort_model_info"]
        assert [one["version"] for one in info] == ["2"]
        assert watch.refusals == 0


def test_a_replacement_takes_names_as_the_lost_worker_did_and_passes_over_what_is_refused(models: Path) -> None:
    """A model that came later does not make calls ambiguous, and a bundle that is refused does not stop it."""
    with running(models, "--watch-seconds", "0") as server:
        write_bundle(models, name="later")
        write_bundle(models, TWO_MEMBERS, version=2).joinpath("member-1.onnx").write_bytes(b"")
        for pid in server.worker_pids():
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: server.value("consort_lost_workers_total") == 2)
        wait_for(lambda: server.value("consort_workers") == 2)
        replies = server.call_many("after")
    assert {(reply.model_name, reply.model_version) for reply in replies} == {("stub", 1)}


def test_a_worker_that_cannot_be_replaced_is_tried_again_while_others_serve(
    models: Path,
) -> None:
    with running(models, "--watch-seconds", "0") as server:
        manifest = models / "stub/1/manifest.json"
        good = manifest.read_text()
        manifest.write_text("{}")
        os.kill(server.worker_pids()[0], signal.SIGKILL)
        wait_for(lambda: server.saw("worker not replaced"))
        assert len(server.call_once().classifications) == 1
        manifest.write_text(good)
        wait_for(lambda: server.value("consort_workers") == 2)
        assert server.stop() == 0


def test_a_worker_that_is_told_to_end_drains_and_is_replaced(models: Path) -> None:
    with running(models, *EVERYTHING) as server:
        os.kill(server.worker_pids()[0], signal.SIGTERM)
        wait_for(lambda: server.saw("worker lost", exit_code=0))
        wait_for(lambda: server.value("consort_workers") == 2)


def test_every_worker_takes_a_new_token(models: Path, tmp_path: Path) -> None:
    """Each looks at the file by itself; the metrics port asks for a token as well."""
    file = tmp_path / "tokens"
    first = add_token("first", "classify", file)
    with running(models, "--tokens", str(file)) as server:
        assert server.codes(first) == {grpc.StatusCode.OK}
        second = add_token("second", "classify", file)
        wait_for(lambda: server.codes(second) == {grpc.StatusCode.OK})
        with pytest.raises(urllib.error.HTTPError, match="401"):
            server.scrape()


def test_workers_end_when_their_supervisor_is_killed(models: Path) -> None:
    with running(models) as server:
        pids = server.worker_pids()
        server.process.kill()
        wait_until_refused(server.grpc_port)
        wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


def test_a_second_server_on_the_same_port_is_refused(models: Path) -> None:
    """Workers share a port with each other and with nobody else, whether that has workers or not."""
    with running(models) as server, ThreadPoolExecutor() as pool:
        taken = ("--models", str(models), "--grpc-port", str(server.grpc_port), "--workers")
        for result in pool.map(lambda count: start(*taken, count), ("1", "2")):
            assert (result.returncode, result.stderr.count("\n")) == (3, 1)
            assert result.stderr.startswith(f"PortTaken: gRPC address {server.target} cannot be listened on")


@pytest.mark.parametrize("port", ["grpc", "metrics"])
def test_workers_are_refused_a_port_that_a_server_has(
    models: Path, start_server: Callable[..., Server], port: str
) -> None:
    taken = getattr(start_server(models), f"{port}_port")
    result = start("--models", str(models), "--workers", "2", f"--{port}-port", str(taken))
    assert (result.returncode, result.stderr.count("\n")) == (3, 1)
    assert re.match(f"PortTaken: (metrics port|gRPC address) 127.0.0.1:{taken} cannot", result.stderr)


def test_a_worker_that_the_machine_has_no_room_for_stops_the_start(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    server = Supervisor(ServerSettings(models=models, grpc_port=0, metrics_port=0, workers=2, threads=2), 2)
    with pytest.raises(WorkerLost, match=r"worker 1 cannot be started: .*Resource temporarily unavailable"):
        server.start()


def test_a_worker_that_hangs_is_replaced(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "ASK_SECONDS", 0.1)
    monkeypatch.setattr(supervisor, "SILENT_SECONDS", 3.0)
    server = Supervisor(ServerSettings(models=models, grpc_port=0, metrics_port=0, workers=2, threads=2), 2)
    server.start()
    try:
        hangs, lives = worker_pids()
        os.kill(hangs, signal.SIGSTOP)
        wait_for(lambda: hangs not in worker_pids() and len(worker_pids()) == 2)
        assert lives in worker_pids()
    finally:
        server.drain()
        server.stop()


def worker_pids() -> list[int]:
    """Workers of supervisors in this process, which any of its threads may have started."""
    files = Path("/proc/self/task").glob("*/children")
    pids = [int(pid) for file in files for pid in file.read_text().split()]
    return [pid for pid in pids if b"serving.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_a_worker_whose_loop_hangs_gives_no_sign_of_life(
    models: Path, start_server: Callable[..., Server]
) -> None:
    server, goes_on = start_server(models), threading.Event()
    server._calls.loop.call_soon_threadsafe(goes_on.wait)
    with ThreadPoolExecutor(1) as pool:
        sign = pool.submit(server.wait_for_loop)
        assert not wait([sign], timeout=0.2).done
        goes_on.set()
        sign.result(PATIENCE_SECONDS)


def test_a_bad_bundle_stops_the_start_in_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    file = write_bundle(tmp_path) / "member-1.onnx"
    file.write_bytes(file.read_bytes()[:-1])
    result = start("--models", str(tmp_path), "--workers", "2")  # returns when nobody holds its output any more
    assert (result.returncode, result.stderr.count("\n")) == (3, 1)
    assert result.stderr.startswith("BundleRefused: stub/1: member-1.onnx has sha256")


def start(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A server that must not start."""
    command = [*SERVE, "--threads", "2", "--log-level", "error", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS)


class TestHowMany:
    @pytest.mark.parametrize(("cores", "count"), [(1, 1), (2, 1), (4, 1), (8, 2), (16, 4), (64, 16)])
    def test_by_default_as_many_as_the_cores_need(
        self, cores: int, count: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert CORES_PER_WORKER == 4
        monkeypatch.setattr(supervisor, "available_cores", lambda: cores)
        assert count_workers(ServerSettings()) == count

    def test_threads_count_where_they_are_set(self) -> None:
        assert count_workers(ServerSettings(threads=16)) == 4

    def test_what_is_asked_for_is_taken(self) -> None:
        assert count_workers(ServerSettings(workers=3)) == 3

    def test_models_are_controlled_by_call_in_one_process(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A call would reach one worker alone."""
        monkeypatch.setattr(supervisor, "available_cores", lambda: 64)
        assert count_workers(ServerSettings(model_control=True)) == 1
        with pytest.raises(SettingsError, match="model_control needs workers 1, not 2"):
            read_settings(["--workers", "2", "--model-control"])

    def test_no_worker_goes_without_an_inference_thread(self) -> None:
        with pytest.raises(SettingsError, match="workers 3 exceeds threads 2"):
            read_settings(["--workers", "3", "--threads", "2"])

    @pytest.mark.parametrize(
        ("threads", "count", "shares"), [(2, 2, [1, 1]), (7, 3, [3, 2, 2]), (64, 16, [4] * 16), (1, 2, [1, 1])]
    )
    def test_threads_are_shared_out(self, threads: int, count: int, shares: list[int]) -> None:
        assert share_threads(threads, count) == shares
