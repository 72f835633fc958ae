"""What Envoy offers before three servers: gRPC spread call by call, gRPC-Web, JSON over HTTP, health, metrics."""

from __future__ import annotations

import base64
import json
import re
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from google.protobuf import json_format
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from benchmarks.edge import Edge, read, run_envoy
from benchmarks.fleet import Replica
from protos.consort.v1 import classifier_pb2 as pb
from protos.consort.v1 import classifier_pb2_grpc
from protos.open_inference.v2 import grpc_service_pb2, grpc_service_pb2_grpc
from serving.client import Client
from tests.end_to_end.conftest import DIGITS, Reply, send, targets_of

ROOT = Path(__file__).parents[2]
IMAGE = DIGITS[0].read_bytes()
REQUEST = pb.ClassifyRequest(
    model_name="stub", top_classes=2, return_members=True, encoded=pb.EncodedImages(files=[IMAGE])
)
ASKED = {"top_classes": 2, "return_members": True, "encoded": {"files": [base64.b64encode(IMAGE).decode()]}}
"""The same in JSON; the path names the model."""


def post(edge: Edge, path: str, message: object) -> Reply:
    return send(edge.target, "POST", path, json.dumps(message).encode(), content_type="application/json")


@pytest.fixture
def channel(edge: Edge) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(edge.target) as channel:
        yield channel


@pytest.fixture
def answer(replicas: list[Replica]) -> pb.ClassifyResponse:
    """What a server itself says to REQUEST."""
    with grpc.insecure_channel(replicas[0].target) as channel:
        return timeless(classifier_pb2_grpc.ClassifierStub(channel).Classify(REQUEST, timeout=60))


def timeless(response: pb.ClassifyResponse) -> pb.ClassifyResponse:
    """A response without what differs from call to call."""
    response.ClearField("timing")
    return response


def answered(replica: Replica) -> float:
    """How many calls of Classify a server has answered."""
    assert replica.running is not None
    text = read(f"http://127.0.0.1:{replica.running.metrics_port}/metrics")
    found = re.search(r'^consort_call_seconds_count{code="OK",method="Classify"} (\S+)', text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_calls_of_one_connection_are_spread_over_all_servers(replicas: list[Replica], edge: Edge) -> None:
    before = [answered(replica) for replica in replicas]
    with Client(edge.target) as client:
        for _ in range(60):
            client.classify([IMAGE])
    shares = [answered(replica) - earlier for replica, earlier in zip(replicas, before, strict=True)]
    assert sum(shares) == 60
    assert min(shares) > 0


@pytest.mark.parametrize(
    "path", ["/v1/models/stub:classify", "/v1/models/stub/versions/1:classify", "/v1:classify"]
)
def test_json_is_answered_as_grpc_is(edge: Edge, answer: pb.ClassifyResponse, path: str) -> None:
    reply = post(edge, path, ASKED)
    assert reply.status == 200
    found = json_format.ParseDict(reply.json, pb.ClassifyResponse())
    assert found.timing.total_seconds > 0
    assert timeless(found) == answer


def test_json_has_the_protos_names_and_leaves_no_number_out(edge: Edge) -> None:
    found = post(edge, "/v1:classify", {**ASKED, "return_members": False}).json["classifications"][0]
    assert found.keys() == {field.name for field in pb.Classification.DESCRIPTOR.fields}
    assert found["top_classes"][0].keys() == {"index", "label", "probability"}
    assert found["members"] == []


def test_models_are_listed_and_described_as_json(edge: Edge) -> None:
    listed = send(edge.target, "GET", "/v1/models").json
    assert listed == {"models": [{"name": "stub", "version": 1, "default_version": True, "labels": []}]}
    with Client(edge.target) as client:
        expected = client.get_model("stub")
    for path in ("/v1/models/stub", "/v1/models/stub/versions/1"):
        assert json_format.ParseDict(send(edge.target, "GET", path).json, pb.GetModelResponse()) == expected


@pytest.mark.parametrize(
    ("path", "message", "status", "code", "words"),
    [
        ("/v1/models/other:classify", ASKED, 404, grpc.StatusCode.NOT_FOUND, "no model 'other' is served"),
        ("/v1:classify", {}, 400, grpc.StatusCode.INVALID_ARGUMENT, "the request has no images"),
    ],
)
def test_errors_of_the_server_are_json_too(
    edge: Edge, path: str, message: object, status: int, code: grpc.StatusCode, words: str
) -> None:
    reply = post(edge, path, message)
    assert (reply.status, reply.json["code"]) == (status, code.value[0])
    assert words in reply.json["message"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/v1:classify?early_stopp=true", ASKED),
        ("/v1:classify", {"encoded": {"files": "no list of base64"}}),
        ("/v1/models/stub:classify", {**ASKED, "model_name": "other"}),
        ("/v1/models/stub/versions/one:classify", ASKED),
    ],
)
def test_json_that_cannot_be_turned_into_a_request_is_refused(edge: Edge, path: str, message: object) -> None:
    assert post(edge, path, message).status == 400


@pytest.mark.parametrize("path", ["/", "/v1/nothing", "/stats", "/consort.v1.Classifier/Classify"])
def test_there_is_nothing_elsewhere(edge: Edge, path: str) -> None:
    assert send(edge.target, "GET", path).status == 404


def test_a_request_that_is_too_large_is_refused_before_it_is_sent(edge: Edge) -> None:
    reply = send(edge.target, "POST", "/v1:classify", content_type="application/json", content_length="60000000")
    assert reply.status == 413


def test_a_browser_may_call_by_grpc_web(edge: Edge, answer: pb.ClassifyResponse) -> None:
    """The call of a page from localhost: one frame with the message, then one with the trailers."""
    message = REQUEST.SerializeToString()
    reply = send(
        edge.target,
        "POST",
        "/consort.v1.Classifier/Classify",
        struct.pack(">BI", 0, len(message)) + message,
        content_type="application/grpc-web+proto",
        x_grpc_web="1",
        origin="http://localhost:3000",
    )
    assert (reply.status, reply.headers["access-control-allow-origin"]) == (200, "http://localhost:3000")
    _, length = struct.unpack(">BI", reply.body[:5])
    assert timeless(pb.ClassifyResponse.FromString(reply.body[5 : 5 + length])) == answer
    flags, _ = struct.unpack(">BI", reply.body[5 + length : 10 + length])
    assert flags == 0x80
    assert b"grpc-status:0" in reply.body[10 + length :]


@pytest.mark.parametrize(
    ("origin", "allowed"), [("http://localhost:3000", True), ("http://localhost.example", False)]
)
def test_pages_of_the_origins_that_are_listed_may_call(edge: Edge, origin: str, allowed: bool) -> None:
    path = "/consort.v1.Classifier/Classify"
    reply = send(edge.target, "OPTIONS", path, origin=origin, access_control_request_method="POST")
    assert reply.headers["access-control-allow-origin"] == (origin if allowed else None)


def test_health_through_envoy_is_the_servers(channel: grpc.Channel) -> None:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    reply = stub.Check(health_pb2.HealthCheckRequest(), timeout=60)
    assert reply.status == health_pb2.HealthCheckResponse.SERVING


def test_healthz_says_whether_any_server_serves(edge: Edge, tmp_path: Path) -> None:
    assert send(edge.target, "GET", "/healthz").status == 200
    with run_envoy(["127.0.0.1:1"], tmp_path) as alone, grpc.insecure_channel(alone.target) as channel:
        alone.wait_until_healthy(0)
        assert send(alone.target, "GET", "/healthz").status == 503
        with pytest.raises(grpc.RpcError) as error:
            classifier_pb2_grpc.ClassifierStub(channel).Classify(REQUEST, timeout=60)
    assert error.value.code() == grpc.StatusCode.UNAVAILABLE


def test_the_open_inference_protocol_passes(channel: grpc.Channel) -> None:
    stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
    assert stub.ModelReady(grpc_service_pb2.ModelReadyRequest(name="stub"), timeout=60).ready


@pytest.mark.parametrize("method", ["RepositoryModelLoad", "RepositoryModelUnload", "RepositoryIndex"])
def test_control_of_the_models_does_not_pass(channel: grpc.Channel, method: str) -> None:
    call: Any = channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
    with pytest.raises(grpc.RpcError) as error:
        call(b"", timeout=60)
    assert (error.value.code(), error.value.details()) == (grpc.StatusCode.UNIMPLEMENTED, "")


def test_a_callers_request_id_reaches_the_server_and_comes_back(channel: grpc.Channel) -> None:
    classify = classifier_pb2_grpc.ClassifierStub(channel).Classify
    _, call = classify.with_call(REQUEST, metadata=(("x-request-id", "order-7"),), timeout=60)
    assert dict(call.trailing_metadata())["x-request-id"] == "order-7"
    _, call = classify.with_call(REQUEST, timeout=60)
    assert dict(call.trailing_metadata())["x-request-id"], "one that is made up where the caller has none"


def test_reflection_does_not_pass(channel: grpc.Channel) -> None:
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    with pytest.raises(grpc.RpcError) as error:
        list(stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest()]), timeout=60))
    assert error.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_prometheus_gets_envoys_metrics_and_nothing_else_of_its_administration(edge: Edge) -> None:
    assert 'envoy_cluster_upstream_rq_retry{envoy_cluster_name="consort"}' in read(
        f"http://{edge.metrics}/stats/prometheus"
    )
    admin = yaml.safe_load((ROOT / "deploy/envoy/envoy.yaml").read_text())["admin"]
    assert admin["address"]["socket_address"]["address"] == "127.0.0.1"
    assert send(edge.metrics, "GET", "/config_dump").status == 404
    assert send(edge.metrics, "POST", "/quitquitquit").status == 404


def test_before_it_stops_envoy_sends_callers_elsewhere_and_goes_on_answering(
    replicas: list[Replica], tmp_path: Path
) -> None:
    """The command that Kubernetes runs first, without the time that it then waits.

    From then on Envoy tells callers by chance, the more likely the more of its time to drain has passed.
    """
    (deployment, *_) = yaml.safe_load_all((ROOT / "deploy/kubernetes/overlays/edge/envoy.yaml").read_text())
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    command = container["lifecycle"]["preStop"]["exec"]["command"]
    drain = container["args"][container["args"].index("--drain-time-s") :][:2]
    drain_seconds = float(drain[1])
    with run_envoy(targets_of(replicas), tmp_path, arguments=drain) as edge, Client(edge.target, 60) as client:
        edge.wait_until_healthy(3)
        client.classify([IMAGE])
        script = command[-1].replace("9901", edge.admin.rpartition(":")[2]).replace("sleep 35", "head -1 <&3")
        said = subprocess.run([*command[:-1], script], capture_output=True, text=True, timeout=60, check=True)
        assert said.stdout.strip() == "HTTP/1.1 200 OK"
        began = time.monotonic()
        while not edge.count("http.edge.downstream_cx_drain_close"):
            assert time.monotonic() - began < drain_seconds, "no caller was told to connect elsewhere"
            client.classify([IMAGE])
