"""The server as a process: how it starts, refuses to start, reports and stops."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.fuzzing.peers import Peer
from serving.client import CallError, Client
from serving.logs import MAX_LINES
from serving.readiness import SERVING
from tests.bundles import write_bundle
from tests.imaging.test_files import encode, gradient
from tests.serving.test_server import BLACK, wait_for

ROOT = Path(__file__).parents[2]
SERVE = [sys.executable, "-m", "serving", "--host", "127.0.0.1", "--grpc-port", "0", "--metrics-port", "0"]


SLOW_FILES = [encode(gradient(2000))] * 60
"""A second or two of decoding."""


def wait_until_in_flight(metrics_port: int) -> None:
    """Wait until the server is at work on a Classify call."""
    wanted = 'consort_in_flight_calls{method="Classify"} 1.0'

    def is_in_flight() -> bool:
        with urllib.request.urlopen(f"http://127.0.0.1:{metrics_port}/metrics", timeout=60) as reply:
            return wanted in reply.read().decode()

    wait_for(is_in_flight)


@contextmanager
def serving(*arguments: str, within: Sequence[str] = ()) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """A server process and its `ready` event; `within` another command that runs it, if need be."""
    process = subprocess.Popen([*within, *SERVE, *arguments], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            event = json.loads(line)
            if event["event"] == "ready":
                yield process, event
                break
    finally:
        process.kill()
        process.communicate()


def health(port: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "serving.health", f"127.0.0.1:{port}"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_logs_are_json_and_begin_with_the_resolved_settings(models: Path) -> None:
    command = [*SERVE, "--models", str(models), "--threads", "1"]
    events = []
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            events.append(json.loads(line))
            if events[-1]["event"] == "ready":
                process.send_signal(signal.SIGTERM)
    assert process.returncode == 0
    assert [event["event"] for event in events] == ["starting", "model loaded", "ready", "draining", "stopped"]
    assert (events[0]["models"], events[0]["threads"]) == (str(models), 1)
    assert (events[1]["name"], events[1]["members"]) == ("stub", 2)
    assert all(re.match(r"\d{4}-\d\d-\d\dT.*Z", event["timestamp"]) for event in events)


def test_what_libraries_log_is_json_too_and_callers_cannot_fill_the_log_with_it(models: Path) -> None:
    """GRPC would log a traceback for each of these calls."""
    with serving("--models", str(models)) as (process, event):
        for _ in range(3):
            with Peer(f"127.0.0.1:{event['grpc_port']}") as peer:
                peer.send(peer.begin("/consort.v1.Classifier/Classify", (("other", b"\xff"),)), b"junk")
                assert peer.code() == grpc.StatusCode.INVALID_ARGUMENT.value[0]
        process.terminate()
        assert process.stderr is not None
        assert [json.loads(line)["event"] for line in process.stderr] == ["draining", "stopped"]
    code = (
        "import logging; from serving.logs import configure_logs; configure_logs('json', 'info'); "
        "logging.getLogger('other').error('%s is %d', 'it', 7); logging.getLogger('other').log(45, 'odd')"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    told = [json.loads(line) for line in result.stderr.splitlines()]
    assert [(one["name"], one["message"], one["level"]) for one in told] == [
        ("other", "it is 7", "error"),
        ("other", "odd", "critical"),
    ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_calls_in_progress_finish(models: Path, number: signal.Signals) -> None:
    with serving("--models", str(models)) as (process, event), ThreadPoolExecutor(1) as caller:
        with Client(f"127.0.0.1:{event['grpc_port']}", timeout_seconds=60) as client:
            answer = caller.submit(client.classify, SLOW_FILES)
            wait_until_in_flight(event["metrics_port"])
            process.send_signal(number)
            assert not answer.done()
            assert len(answer.result(60).classifications) == len(SLOW_FILES)
        assert process.wait(60) == 0


def test_the_process_ends_when_the_grace_is_over(models: Path) -> None:
    """Calls that are not done by then are cancelled, and not even decoded to the end."""
    with (
        serving("--models", str(models), "--grace-seconds", "1") as (process, event),
        ThreadPoolExecutor(1) as caller,
        Client(f"127.0.0.1:{event['grpc_port']}", timeout_seconds=60) as client,
    ):
        started = time.monotonic()
        client.classify(SLOW_FILES)
        quarter_seconds = time.monotonic() - started
        answer = caller.submit(client.classify, SLOW_FILES * 4)
        wait_until_in_flight(event["metrics_port"])
        process.terminate()
        started = time.monotonic()
        with pytest.raises(CallError, match=r"UNAVAILABLE|CANCELLED"):
            answer.result(60)
        assert process.wait(60) == 0
        assert time.monotonic() - started < 1 + 2 * quarter_seconds


def test_a_server_that_takes_no_more_calls_ends_so_that_another_is_started(models: Path) -> None:
    """Also while somebody watches its health, which has no end."""
    fail = "import sys; from serving import __main__ as command, call_server; begin = call_server._Core._begin\n"
    code = fail + (
        "def fail(core, name, call):\n"
        "    if name.endswith('ListModels'): raise RuntimeError('gRPC is broken')\n"
        "    begin(core, name, call)\n"
        "call_server._Core._begin = fail; sys.exit(command.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, *SERVE[3:], "--models", str(models)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        port = next(event["grpc_port"] for event in map(json.loads, process.stderr) if event["event"] == "ready")
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)  # its type stubs name no methods
            assert next(health.Watch(health_pb2.HealthCheckRequest(), timeout=60)).status == SERVING
            with Client(f"127.0.0.1:{port}", timeout_seconds=60) as client, pytest.raises(CallError):
                client.list_models()
            events = [json.loads(line) for line in process.stderr]
        assert process.wait(60) == 1
    assert "no more calls are taken" in [event["event"] for event in events if event["level"] == "error"]


def test_a_log_that_nobody_reads_holds_up_no_call(models: Path) -> None:
    """Lines that find no room are lost, and those that are written later say how many."""
    with (
        serving("--models", str(models), "--access-log-share", "1") as (process, event),
        Client(f"127.0.0.1:{event['grpc_port']}", timeout_seconds=60) as client,
    ):
        assert process.stderr is not None
        fcntl.fcntl(process.stderr, fcntl.F_SETPIPE_SZ, 4096)
        calls = MAX_LINES + 100
        for _ in range(calls):
            client.classify(BLACK)
        events = [json.loads(process.stderr.readline()) for _ in range(MAX_LINES // 2)]  # now there is room again
        process.terminate()
        events += [json.loads(line) for line in process.stderr]
    assert [event["event"] for event in events[-2:]] == ["draining", "stopped"]
    lost = events[-1]["lines_lost"]
    assert 0 < lost < 100, "the pipe has room for some"
    assert len(events) - 2 == calls - lost


def test_a_standard_error_that_does_not_block_loses_nothing() -> None:
    read, write = os.pipe()
    os.set_blocking(write, False)
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    code = (
        "import structlog; from serving.logs import configure_logs; configure_logs('json', 'info'); "
        "[structlog.get_logger().info('x' * 100) for _ in range(500)]"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=write), os.fdopen(read) as lines:
        os.close(write)
        assert len([json.loads(line) for line in lines]) == 500


def test_a_server_that_ends_waits_a_moment_for_whoever_reads_its_log(models: Path) -> None:
    with serving("--models", str(models), "--access-log-share", "1") as (process, event):
        assert process.stderr is not None
        fcntl.fcntl(process.stderr, fcntl.F_SETPIPE_SZ, 4096)
        with Client(f"127.0.0.1:{event['grpc_port']}", timeout_seconds=60) as client:
            for _ in range(50):
                client.classify(BLACK)
        process.terminate()
        assert process.wait(60) == 0


def test_a_server_whose_log_nobody_reads_any_more_drains_as_ever(models: Path) -> None:
    with serving("--models", str(models)) as (process, event), ThreadPoolExecutor(1) as caller:
        assert process.stderr is not None
        process.stderr.close()
        process.stderr = None
        with Client(f"127.0.0.1:{event['grpc_port']}", timeout_seconds=60) as client:
            answer = caller.submit(client.classify, SLOW_FILES)
            wait_until_in_flight(event["metrics_port"])
            process.terminate()
            assert len(answer.result(60).classifications) == len(SLOW_FILES)
        assert process.wait(60) == 0


def test_health_says_whether_it_serves(models: Path) -> None:
    with serving("--models", str(models)) as (_, event):
        asked = health(event["grpc_port"])
        assert (asked.returncode, asked.stdout) == (0, "SERVING\n")
    asked = health(event["grpc_port"])
    assert asked.returncode == 1
    assert "UNAVAILABLE" in asked.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "/nowhere"], "BundleRefused: models folder /nowhere cannot be read: No such file"),
        (["--grpc-port", "x"], "SettingsError: grpc_port: Input should be a valid integer"),
        (["--no-such-flag"], "SettingsError: "),
        (["--models", __file__], f"BundleRefused: models folder {__file__} cannot be read: Not a directory"),
        (["--config", "/tmp"], "SettingsError: config file /tmp cannot be read: Is a directory"),  # noqa: S108
        (["--threads", "200000"], "SettingsError: threads: Input should be less than or equal to 1024"),
        (["--trace-endpoint", "collector"], "SettingsError: trace_endpoint: String should match pattern"),
        (["--access-log-share", "2"], "SettingsError: access_log_share: Input should be less than or equal to 1"),
        (["--drain-delay-seconds", "-1"], "SettingsError: drain_delay_seconds: Input should be greater than"),
        (["--host", "nowhere.invalid"], "PortTaken: metrics port nowhere.invalid:0 cannot be opened"),
        (["--tokens", "/nowhere"], "CredentialsRefused: /nowhere cannot be read: No such file or directory"),
        (["--provider", "cuda"], "ProviderInactive: provider 'cuda' was asked for"),
    ],
)
def test_a_start_that_fails_says_why_in_one_line(arguments: list[str], message: str) -> None:
    result = subprocess.run(
        [*SERVE, *arguments, "--log-level", "error"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 3
    assert result.stderr.startswith(message)
    assert result.stderr.count("\n") == 1


def test_as_many_files_may_be_open_as_the_system_allows(models: Path) -> None:
    """And a server that may not have as many connections as its settings say warns of it."""
    narrow = ["bash", "-c", 'ulimit -Sn 100; ulimit -Hn 300; exec "$0" "$@"']
    with serving("--models", str(models), within=narrow) as (process, _):
        limits = Path(f"/proc/{process.pid}/limits").read_text()
    assert re.search(r"Max open files\s+300\s+300\s", limits)
    command = [*narrow, *SERVE, "--models", "/nowhere"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stderr
    assert '"files": 300, "max_connections": 4096' in said


def test_a_server_without_descriptors_waits_for_some_at_rest(models: Path) -> None:
    """Whoever asks for the metrics waits, and is not looked at again and again meanwhile."""
    narrow = ["bash", "-c", 'ulimit -n 100; exec "$0" "$@"']
    with serving("--models", str(models), within=narrow) as (process, event), ExitStack() as stack:
        for _ in range(120):
            stack.enter_context(socket.create_connection(("127.0.0.1", event["grpc_port"])))
        wait_for(lambda: len(list(Path(f"/proc/{process.pid}/fd").iterdir())) == 100)
        stack.enter_context(socket.create_connection(("127.0.0.1", event["metrics_port"])))
        before = processor_seconds(process.pid)
        time.sleep(1)
        assert processor_seconds(process.pid) - before < 0.5


def processor_seconds(pid: int) -> float:
    """What a process has used until now."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_port_in_use_stops_the_start_in_one_line(models: Path) -> None:
    with serving("--models", str(models)) as (_, event):
        command = [*SERVE, "--models", str(models), "--log-level", "error", "--grpc-port", str(event["grpc_port"])]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr.count("\n")) == (3, 1)
    assert result.stderr.startswith("PortTaken: gRPC address")


def test_a_bad_bundle_stops_the_start(tmp_path: Path) -> None:
    file = write_bundle(tmp_path) / "member-1.onnx"
    file.write_bytes(file.read_bytes()[:-1])
    result = subprocess.run(
        [*SERVE, "--models", str(tmp_path), "--log-level", "error"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stderr.count("\n")) == (3, 1)
    assert "BundleRefused: stub/1: member-1.onnx has sha256" in result.stderr


def test_the_garbage_collector_passes_over_what_there_is_at_the_start(models: Path) -> None:
    """A full collection would hold up every call for as long as it looks at the libraries' own objects."""
    code = (
        "import gc, sys; from serving.__main__ import main; from serving.server import Server; "
        "Server.serve = lambda _: print(gc.get_freeze_count(), len(gc.get_objects())); main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", code, *SERVE[3:], "--models", str(models)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    frozen, others = map(int, result.stdout.split())
    assert frozen > 20 * others


def test_onnxruntime_reports_to_nobody() -> None:
    """The switch is set before the library loads, whatever the environment says."""
    code = "import os, serving.server; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "0"}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert result.stdout == "1\n"
