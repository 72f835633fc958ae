"""The contract's stubs are those of its .proto file, and every field says what it holds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

ROOT = Path(__file__).parents[2]
PROTO = "protos/consort/v1/classifier.proto"


def protoc(*arguments: str) -> None:
    """Run the protocol compiler with the plugins of this environment."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", "--proto_path=.", *arguments, PROTO],
        cwd=ROOT,
        env={**os.environ, "PATH": path},
        check=True,
    )


@pytest.fixture(scope="module")
def descriptor(tmp_path_factory: pytest.TempPathFactory) -> descriptor_pb2.FileDescriptorProto:
    """The .proto file, parsed, with its comments."""
    file = tmp_path_factory.mktemp("descriptor") / "set"
    protoc("--include_source_info", f"--descriptor_set_out={file}")
    return descriptor_pb2.FileDescriptorSet.FromString(file.read_bytes()).file[0]


def test_committed_stubs_are_those_of_the_proto(tmp_path: Path) -> None:
    """`make protos` would change nothing."""
    kinds = ("--python_out={}", "--grpc_python_out={}", "--mypy_out=quiet:{}", "--mypy_grpc_out=quiet:{}")
    protoc(*(kind.format(tmp_path) for kind in kinds))
    generated = sorted((tmp_path / "protos/consort/v1").iterdir())
    assert [file.name for file in generated] == [
        "classifier_pb2.py",
        "classifier_pb2.pyi",
        "classifier_pb2_grpc.py",
        "classifier_pb2_grpc.pyi",
    ]
    for file in generated:
        committed = ROOT / "protos/consort/v1" / file.name
        assert file.read_text() == committed.read_text(), f"{file.name} is out of date: run make protos"


def test_every_field_method_and_value_has_a_comment(descriptor: descriptor_pb2.FileDescriptorProto) -> None:
    commented = {
        tuple(location.path)
        for location in descriptor.source_code_info.location
        if location.leading_comments.strip()
    }
    # paths: 4 = message, 2 = field; 5 = enum, 2 = value; 6 = service, 2 = method
    wanted = [(4, m, 2, f) for m, message in enumerate(descriptor.message_type) for f in range(len(message.field))]
    wanted += [(5, e, 2, v) for e, enum in enumerate(descriptor.enum_type) for v in range(len(enum.value))]
    wanted += [(6, s, 2, m) for s, service in enumerate(descriptor.service) for m in range(len(service.method))]
    assert len(wanted) > 40
    assert [path for path in wanted if path not in commented] == []


def test_probabilities_are_packed(descriptor: descriptor_pb2.FileDescriptorProto) -> None:
    """proto3 packs repeated numbers unless told otherwise; nobody has told otherwise."""
    fields = [field for message in descriptor.message_type for field in message.field]
    assert [field.name for field in fields if field.options.HasField("packed")] == []
    assert descriptor.syntax == "proto3"
