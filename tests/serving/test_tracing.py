"""Spans of calls reach a real OTLP collector, in the trace of their caller."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from protos.consort.v1 import classifier_pb2_grpc
from serving.client import Client
from serving.server import Server
from tests.conftest import run_server
from tests.serving.test_process import ROOT
from tests.serving.test_server import BLACK, raw, target, wait_for

StartServer = Callable[..., Server]
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE[::-1]}-{PARENT}-00"


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps what it is sent."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.services: set[str] = set()

    def Export(
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        for resource in request.resource_spans:
            attributes = {one.key: one.value.string_value for one in resource.resource.attributes}
            self.services.add(attributes["service.name"])
            for scope in resource.scope_spans:
                self.spans += scope.spans
        return trace_service_pb2.ExportTraceServiceResponse()


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Collector, str]]:
    """A collector and its endpoint; servers started after it send at once."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(2))
    add: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
    add(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield collector, f"http://127.0.0.1:{port}"
    server.stop(0).wait()


def classify(server: Server, request: Any, *metadata: tuple[str, str]) -> grpc.StatusCode:
    with grpc.insecure_channel(target(server)) as channel:
        call = classifier_pb2_grpc.ClassifierStub(channel).Classify.future(request, timeout=60, metadata=metadata)
        call.exception()
        return call.code()


def test_a_call_continues_its_callers_trace(
    models: Path, start_server: StartServer, collector: tuple[Collector, str]
) -> None:
    """One span of the call, and below it decode, queue and inference, one after the other."""
    collected, endpoint = collector
    server = start_server(models, trace_endpoint=endpoint)
    before = time.time_ns()
    assert classify(server, raw(), ("traceparent", SAMPLED), ("x-request-id", "order-7")) is grpc.StatusCode.OK
    wait_for(lambda: len(collected.spans) >= 4)
    spans = {span.name: span for span in collected.spans}
    call = spans.pop("consort.v1.Classifier/Classify")
    assert collected.services == {"consort"}
    assert (call.trace_id.hex(), call.parent_span_id.hex()) == (TRACE, PARENT)
    assert call.kind == Span.SPAN_KIND_SERVER
    attributes = {one.key: one.value for one in call.attributes}
    assert attributes["rpc.service"].string_value == "consort.v1.Classifier"
    assert attributes["rpc.grpc.status_code"].int_value == 0
    assert attributes["consort.request_id"].string_value == "order-7"
    assert attributes["consort.model"].string_value == "stub"
    assert attributes["consort.images"].int_value == 1
    assert list(spans) == ["decode", "queue", "inference"]
    edges = [call.start_time_unix_nano]
    for span in spans.values():
        assert (span.trace_id, span.parent_span_id) == (call.trace_id, call.span_id)
        edges += [span.start_time_unix_nano, span.end_time_unix_nano]
    assert edges == sorted(edges)
    # Two clocks are read one after the other: what comes last may seem a hair too late.
    assert before - 1_000_000 <= edges[0] < edges[-1] <= call.end_time_unix_nano + 1_000_000


def test_what_its_caller_does_not_sample_is_not_sent(
    models: Path, start_server: StartServer, collector: tuple[Collector, str]
) -> None:
    collected, endpoint = collector
    server = start_server(models, trace_endpoint=endpoint)
    for parent in (UNSAMPLED, SAMPLED):
        classify(server, raw(), ("traceparent", parent))
    wait_for(lambda: len(collected.spans) >= 4)
    assert {span.trace_id.hex() for span in collected.spans} == {TRACE}


def test_our_own_failures_are_errors_and_the_callers_are_not(
    models: Path, start_server: StartServer, collector: tuple[Collector, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    collected, endpoint = collector
    server = start_server(models, trace_endpoint=endpoint)
    assert classify(server, raw(shape=(1,))) is grpc.StatusCode.INVALID_ARGUMENT

    def fail(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr("serving.ensemble.Ensemble.run_member", fail)
    assert classify(server, raw()) is grpc.StatusCode.INTERNAL
    wait_for(lambda: sum("Classify" in span.name for span in collected.spans) == 2)
    statuses = [span.status.code for span in collected.spans if "Classify" in span.name]
    assert statuses == [Status.STATUS_CODE_UNSET, Status.STATUS_CODE_ERROR]


def test_a_collector_that_is_not_there_holds_up_neither_calls_nor_the_end(models: Path) -> None:
    """Though more spans wait for it than go into one message."""
    with run_server(models, trace_endpoint="http://127.0.0.1:9") as server:
        with Client(target(server)) as client:
            for _ in range(300):
                client.classify(BLACK)
        started = time.monotonic()
    assert time.monotonic() - started < 15


def test_tracing_without_the_extra_stops_the_start_in_one_line(models: Path) -> None:
    code = (
        "import sys; sys.modules['opentelemetry'] = None; from serving.__main__ import main; "
        f"sys.exit(main(['--models', {str(models)!r}, '--log-level', 'error', '--grpc-port', '0', "
        "'--metrics-port', '0', '--trace-endpoint', 'http://127.0.0.1:4317']))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 3
    assert result.stderr.startswith(
        "TracingMissing: trace_endpoint http://127.0.0.1:4317 is set, but opentelemetry"
    )
    assert result.stderr.endswith("pip install '.[tracing]' in the checkout\n")
    assert result.stderr.count("\n") == 1
