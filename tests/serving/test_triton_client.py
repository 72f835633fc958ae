"""Triton's own client, unchanged, against a real server.

It runs in a process and an environment of its own: its messages have the names of our stubs.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import descriptor_pb2

from protos.open_inference.v2 import grpc_service_pb2 as pb
from serving.client import Client
from serving.open_inference.outputs import OUTPUTS
from serving.server import Server
from tests.bundles import StubMember, write_bundle
from tests.conftest import run_server

PYTHON = Path(sys.prefix) / "triton/bin/python"
CALLS = Path(__file__).parent / "triton_calls.py"
PIXELS = np.arange(3 * 16, dtype=np.uint8).reshape(3, 1, 4, 4) * 5
"""Those of `triton_calls`."""
MEMBERS = (
    StubMember((0.7, 0.2, 0.1), tilt=(0.0, 3.0, 1.0)),
    StubMember((0.1, 0.5, 0.4), tilt=(1.0, 0.0, 2.0)),
    StubMember((0.3, 0.3, 0.4), tilt=(0.0, 2.0, 0.0)),
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of three members whose answers depend on the image."""
    models = tmp_path_factory.mktemp("models")
    write_bundle(models, MEMBERS, temperature=0.8)
    with run_server(models) as server:
        yield server


def call(name: str, server: Server) -> Any:
    """What a function of `triton_calls` gives."""
    if not PYTHON.exists():
        pytest.skip(f"Triton's client is not in {PYTHON.parents[1]}; `make test` puts it there")
    process = subprocess.run(
        [PYTHON, "-W", "error::DeprecationWarning:__main__", CALLS, name, f"127.0.0.1:{server.grpc_port}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


def messages_of(messages: Any, scope: str) -> Iterator[tuple[str, dict[int, tuple[str, int, int, str]]]]:
    """Every message with its fields by number: name, type, label, and type's name."""
    for message in messages:
        name = f"{scope}.{message.name}"
        yield name, {one.number: (one.name, one.type, one.label, one.type_name) for one in message.field}
        yield from messages_of(message.nested_type, name)


def enums_of(file: descriptor_pb2.FileDescriptorProto) -> dict[str, set[tuple[str, int]]]:
    """Every enum with its values."""
    inner = [enum for message in file.message_type for enum in message.enum_type]
    return {enum.name: {(value.name, value.number) for value in enum.value} for enum in (*file.enum_type, *inner)}


def methods_of(service: descriptor_pb2.ServiceDescriptorProto) -> set[tuple[str, str, str, bool, bool]]:
    """Every method with what it takes and gives, and which of both are streams."""
    return {
        (one.name, one.input_type, one.output_type, one.client_streaming, one.server_streaming)
        for one in service.method
    }


def test_the_contract_is_part_of_tritons(server: Server) -> None:
    """Every message, field, number, type, method and enum value of ours is theirs."""
    theirs = descriptor_pb2.FileDescriptorProto()
    for file in call("contract", server):
        theirs.MergeFromString(base64.b64decode(file))
    ours = descriptor_pb2.FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(ours)
    assert ours.package == theirs.package == "inference"
    their_messages = dict(messages_of(theirs.message_type, ""))
    for name, fields in messages_of(ours.message_type, ""):
        assert fields.items() <= their_messages[name].items(), name
    for name, values in enums_of(ours).items():
        assert values <= enums_of(theirs)[name], name
    (service,), (their_service,) = ours.service, theirs.service
    assert service.name == their_service.name
    assert methods_of(service) <= methods_of(their_service)


def test_what_is_ready(server: Server) -> None:
    assert call("ready", server) == {
        "live": True,
        "server": True,
        "model": True,
        "version": True,
        "unknown model": False,
        "unknown version": False,
    }


def test_server_and_model_describe_themselves(server: Server) -> None:
    found = call("describe", server)
    assert found["server"]["name"] == "consort"
    assert found["metadata"]["versions"] == ["1"]
    assert found["metadata"]["inputs"] == [{"name": "pixels", "datatype": "UINT8", "shape": ["-1", "1", "4", "4"]}]
    assert found["config"]["max_batch_size"] == 256
    assert found["config"]["input"] == [
        {"name": "pixels", "data_type": "TYPE_UINT8", "format": "FORMAT_NCHW", "dims": ["1", "4", "4"]}
    ]
    outputs = [output["name"] for output in found["metadata"]["outputs"]]
    assert outputs == [output["name"] for output in found["config"]["output"]]


def test_the_answer_is_that_of_classify_bit_for_bit(server: Server) -> None:
    found = call("infer", server)
    with Client(f"127.0.0.1:{server.grpc_port}") as client:
        expected = client.classify(PIXELS).classifications
    assert found == {
        "id": "seven",
        "version": "1",
        "outputs": ["probabilities", "class"],
        "probabilities": np.stack([one.probabilities for one in expected]).tobytes().hex(),
        "class": np.array([one.top_classes[0].index for one in expected], np.int64).tobytes().hex(),
    }


def test_every_output_that_is_described_can_be_had(server: Server) -> None:
    """With both parameters: the third member is not asked, and its rows are zeros."""
    found = call("ask_for_all", server)
    with Client(f"127.0.0.1:{server.grpc_port}") as client:
        expected = client.classify(PIXELS, members=True, max_members=2, early_stop=True).classifications
    members = np.zeros((3, 3, 3), np.float32)
    for image, one in enumerate(expected):
        assert one.members is not None
        members[image, : one.members_run] = one.members
    assert found == {
        "probabilities": np.stack([one.probabilities for one in expected]).tobytes().hex(),
        "class": np.array([one.top_classes[0].index for one in expected], np.int64).tobytes().hex(),
        "members": members.tobytes().hex(),
        "members_run": np.array([one.members_run for one in expected], np.int64).tobytes().hex(),
        **{
            name: np.array([getattr(one, name) for one in expected], np.float32).tobytes().hex()
            for name in ("entropy", "mutual_information", "agreement")
        },
    }


def test_classes_best_first(server: Server) -> None:
    with Client(f"127.0.0.1:{server.grpc_port}") as client:
        expected = client.classify(PIXELS, top_classes=2).classifications
    assert call("rank", server) == [
        [f"{top.probability:.6f}:{top.index}:{top.label}" for top in one.top_classes] for one in expected
    ]


def test_calls_at_once_and_from_asyncio(server: Server) -> None:
    expected = {"class": call("infer", server)["class"]}
    assert call("ask_at_once", server) == [expected] * 20
    assert call("ask_from_asyncio", server) == expected


def test_statistics(tmp_path: Path) -> None:
    write_bundle(tmp_path)
    with run_server(tmp_path) as server:
        found = call("statistics", server)
    assert (found["name"], found["version"]) == ("stub", "1")
    assert (found["inference_count"], found["execution_count"]) == ("3", "1")
    stages = found["inference_stats"]
    assert {name: stage["count"] for name, stage in stages.items()} == dict.fromkeys(
        ("success", "queue", "compute_input", "compute_infer", "compute_output"), "1"
    )
    total = int(stages.pop("success")["ns"])
    assert sum(int(stage["ns"]) for stage in stages.values()) == pytest.approx(total, abs=5)


def test_refusals_reach_the_caller_as_the_clients_own_exception(server: Server) -> None:
    understood = (
        "which is not understood; understood: early_stop (bool_param), max_members (int64_param), "
        "triton_enable_empty_final_response (bool_param), binary_data_output (bool_param)"
    )
    invalid = "StatusCode.INVALID_ARGUMENT"
    found = [tuple(one) for one in call("refusals", server)]
    status, sequence = found.pop(3)
    assert (status, sequence.endswith(understood), "'sequence_" in sequence) == (invalid, True, True)
    assert found == [
        ("StatusCode.NOT_FOUND", "no model 'other' is served; there are stub"),
        ("StatusCode.NOT_FOUND", "model 'stub' has no label 'latest'; there are none"),
        (invalid, "pixels has datatype FP32, expected UINT8"),
        (invalid, f"the request has parameter 'timeout', {understood}"),
        (invalid, f"the request has parameter 'priority', {understood}"),
        (
            invalid,
            f"there is no output 'logits'; there are {', '.join(OUTPUTS)}",
        ),
        (
            "StatusCode.PERMISSION_DENIED",
            "models are not controlled by call here; the setting model_control allows it",
        ),
    ]


def test_models_are_listed_loaded_and_unloaded(tmp_path: Path) -> None:
    """By the client's own calls, one after the other; the second version is bad, and is named with its reason."""
    write_bundle(tmp_path)
    (write_bundle(tmp_path, version=2) / "member-1.onnx").unlink()
    with run_server(tmp_path, model_control=True, strict_start=False, watch_seconds=0) as server:
        found = call("control", server)
    bad = "stub/2: member-1.onnx is not a regular file in the bundle"
    first, second = {"name": "stub", "version": "1"}, {"name": "stub", "version": "2"}
    unavailable = {"state": "UNAVAILABLE", "reason": "unloaded by call"}
    assert found == {
        "at first": [{**first, "state": "READY"}, {**second, "state": "UNAVAILABLE", "reason": bad}],
        "unloaded": [{**first, **unavailable}, {**second, "state": "UNAVAILABLE", "reason": bad}],
        "ready without": False,
        "load": ["StatusCode.FAILED_PRECONDITION", bad],
        "ready again": True,
        "unknown": ["StatusCode.NOT_FOUND", "the models folder has no model 'other'"],
        "configured": ["StatusCode.INVALID_ARGUMENT", "parameter 'config' is not understood; understood: none"],
    }
