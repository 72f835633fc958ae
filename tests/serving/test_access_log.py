"""The access log: one line a sampled call, with a request id that the caller knows, and nothing of its images."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from structlog.testing import capture_logs

from benchmarks.fuzzing.peers import Peer
from protos.consort.v1 import classifier_pb2_grpc
from serving.access_log import AccessLog
from serving.ensemble import Ensemble
from serving.observation import MAX_REQUEST_ID, CallRecord
from serving.server import Server
from serving.token import add_token
from tests.serving.test_process import serving
from tests.serving.test_server import Gate, raw, target

METHOD = "/consort.v1.Classifier/Classify"
EVERY_CALL = ("--access-log-share", "1", "--access-log-error-share", "1")


def classify(port: int, request: Any, *metadata: tuple[str, str]) -> dict[str, str]:
    """Call; gives the trailing metadata of the answer, whatever it is."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = classifier_pb2_grpc.ClassifierStub(channel).Classify.future(request, timeout=60, metadata=metadata)
        call.exception()
        return {key: str(value) for key, value in call.trailing_metadata()}


def lines_until_stopped(process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    """The access log that a server has written by its end."""
    process.terminate()
    assert process.stderr is not None
    events = [json.loads(line) for line in process.stderr]
    return [event for event in events if event["event"] == "call"]


def test_a_line_tells_what_was_called_and_where_the_time_went(models: Path) -> None:
    with serving("--models", str(models), *EVERY_CALL) as (process, event):
        answered = classify(event["grpc_port"], raw(bytes(48), (3, 1, 4, 4)), ("x-request-id", "order-7"))
        (line,) = lines_until_stopped(process)
    assert answered["x-request-id"] == "order-7"
    known = {name: line[name] for name in ("request_id", "method", "code", "model", "version", "images", "level")}
    assert known == {
        "request_id": "order-7",
        "method": METHOD,
        "code": "OK",
        "model": "stub",
        "version": 1,
        "images": 3,
        "level": "info",
    }
    stages = [line.pop(f"{stage}_ms") for stage in ("decode", "queue", "inference")]
    assert 0 < sum(stages) <= line.pop("total_ms")
    assert set(line) == {*known, "event", "timestamp"}, "and nothing else, least of all an image"


def test_a_call_that_fails_says_why_and_gets_an_id_of_its_own(models: Path) -> None:
    with serving("--models", str(models), *EVERY_CALL) as (process, event):
        answered = classify(event["grpc_port"], raw(shape=(1, 4, 4)))
        (line,) = lines_until_stopped(process)
    assert (line["code"], line["error"]) == ("INVALID_ARGUMENT", "InvalidRequest")
    assert len(line["request_id"]) == 32
    assert answered["x-request-id"] == line["request_id"]
    assert "model" not in line


def test_callers_without_a_token_are_in_it_too(models: Path, tmp_path: Path) -> None:
    """And are told the id of their call, so that they can ask about it."""
    tokens = tmp_path / "tokens"
    other = add_token("other", "metrics", tokens)
    with serving("--models", str(models), "--tokens", str(tokens), *EVERY_CALL) as (process, event):
        answered = [
            classify(event["grpc_port"], raw(), *metadata)
            for metadata in ([], [("authorization", f"Bearer {other}")])
        ]
        lines = lines_until_stopped(process)
    assert [(line["method"], line["code"], line["error"]) for line in lines] == [
        (METHOD, "UNAUTHENTICATED", "Unauthenticated"),
        (METHOD, "PERMISSION_DENIED", "Forbidden"),
    ]
    assert [one["x-request-id"] for one in answered] == [line["request_id"] for line in lines]
    assert other not in str(lines)


def test_failures_have_a_share_of_their_own(models: Path) -> None:
    with serving("--models", str(models), "--access-log-error-share", "1") as (process, event):
        classify(event["grpc_port"], raw())
        classify(event["grpc_port"], raw(model_name="x"))
        lines = lines_until_stopped(process)
    assert [line["code"] for line in lines] == ["NOT_FOUND"]


def test_health_checks_are_not_logged(models: Path) -> None:
    with serving("--models", str(models), *EVERY_CALL) as (process, event):
        with grpc.insecure_channel(f"127.0.0.1:{event['grpc_port']}") as channel:
            check: Any = channel.unary_unary("/grpc.health.v1.Health/Check")
            check(b"", timeout=60)
        assert lines_until_stopped(process) == []


def test_an_id_without_end_is_cut(models: Path, start_server: Callable[..., Server]) -> None:
    server = start_server(models, access_log_error_share=1)
    answered = classify(server.grpc_port, raw(), ("x-request-id", "x" * 1000))
    assert answered["x-request-id"] == "x" * MAX_REQUEST_ID


@pytest.mark.parametrize("odd", ["\xff", "a\tb", "\x7f"])
def test_an_id_that_grpc_could_not_send_back_is_replaced(
    models: Path, start_server: Callable[..., Server], odd: str
) -> None:
    server = start_server(models, access_log_share=1.0)
    with Peer(target(server)) as peer:
        peer.send(peer.begin(METHOD, (("x-request-id", odd.encode("latin-1")),)), raw().SerializeToString())
        assert peer.code() == 0


def test_without_an_access_log_no_ids_are_made(models: Path, start_server: Callable[..., Server]) -> None:
    server = start_server(models)
    assert classify(server.grpc_port, raw(), ("x-request-id", "order-7")) == {}


def test_a_refusal_keeps_its_hint_when_to_come_again(
    models: Path, start_server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the request id. One call is in progress, which is the limit."""
    gate = Gate()
    monkeypatch.setattr(Ensemble, "run_member", gate.hold(Ensemble.run_member))
    server = start_server(models, access_log_error_share=1, max_concurrent_calls=1)
    with grpc.insecure_channel(target(server)) as channel:
        stub = classifier_pb2_grpc.ClassifierStub(channel)
        running = stub.Classify.future(raw(), timeout=60)
        gate.wait_until_held()
        refused = stub.Classify.future(raw(), timeout=60)
        assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert {key for key, _ in refused.trailing_metadata()} == {"x-request-id", "grpc-retry-pushback-ms"}
        gate.open()
        running.result()


def test_a_share_of_the_calls_is_logged() -> None:
    """Half of 2000: 800 to 1200 but for once in 10^18."""
    with capture_logs() as lines:
        access_log = AccessLog(0.5, 0.0)
        for _ in range(2000):
            access_log.end(CallRecord(METHOD, "id", {}, 0.0))
            access_log.end(CallRecord(METHOD, "id", {}, 0.0, code=grpc.StatusCode.INTERNAL))
    assert 800 < len(lines) < 1200
    assert {line["code"] for line in lines} == {"OK"}
