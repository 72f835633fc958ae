"""The contracts' stubs are those of their .proto files, and every field says what it holds."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2
from grpc import StatusCode

from serving.errors import ControlOff, LoadRefused, RequestError, UnknownModel, UnknownService
from serving.statuses import STATUS_CODES

ROOT = Path(__file__).parents[2]
PROTOS = (
    "protos/consort/v1/classifier.proto",
    "protos/consort/v1/model_control.proto",
    "protos/open_inference/v2/grpc_service.proto",
)

# Numbers of fields in descriptor.proto, of which paths in source_code_info are made.
FILE_MESSAGE, FILE_ENUM, FILE_SERVICE = 4, 5, 6
MESSAGE_FIELD, MESSAGE_MESSAGE, MESSAGE_ENUM = 2, 3, 4
ENUM_VALUE = SERVICE_METHOD = 2


def protoc(proto: str, *arguments: str) -> None:
    """Run the protocol compiler with the plugins of this environment."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", "--proto_path=.", *arguments, proto],
        cwd=ROOT,
        env={**os.environ, "PATH": path},
        check=True,
    )


@pytest.fixture(scope="module", params=PROTOS)
def descriptor(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> descriptor_pb2.FileDescriptorProto:
    """A .proto file, parsed, with its comments."""
    file = tmp_path_factory.mktemp("descriptor") / "set"
    protoc(request.param, "--include_source_info", f"--descriptor_set_out={file}")
    return descriptor_pb2.FileDescriptorSet.FromString(file.read_bytes()).file[0]


def of_message(message: descriptor_pb2.DescriptorProto, path: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Paths of the fields and values in a message, and in the messages and enums inside it."""
    if message.options.map_entry:
        return  # written as a field of type map<>
    yield from ((*path, MESSAGE_FIELD, number) for number in range(len(message.field)))
    for number, inner in enumerate(message.nested_type):
        yield from of_message(inner, (*path, MESSAGE_MESSAGE, number))
    for number, enum in enumerate(message.enum_type):
        yield from ((*path, MESSAGE_ENUM, number, ENUM_VALUE, value) for value in range(len(enum.value)))


def fields_of(message: descriptor_pb2.DescriptorProto) -> Iterator[descriptor_pb2.FieldDescriptorProto]:
    """The fields of a message and of the messages inside it."""
    yield from message.field
    for inner in message.nested_type:
        yield from fields_of(inner)


def test_every_proto_is_checked() -> None:
    assert sorted(str(file.relative_to(ROOT)) for file in (ROOT / "protos").rglob("*.proto")) == sorted(PROTOS)


@pytest.mark.parametrize("proto", PROTOS)
def test_committed_stubs_are_those_of_the_proto(proto: str, tmp_path: Path) -> None:
    """`make protos` would change nothing."""
    kinds = ("--python_out={}", "--grpc_python_out={}", "--mypy_out=quiet:{}", "--mypy_grpc_out=quiet:{}")
    protoc(proto, *(kind.format(tmp_path) for kind in kinds))
    folder, stem = Path(proto).parent, Path(proto).stem
    generated = sorted((tmp_path / folder).iterdir())
    assert [file.name for file in generated] == [
        f"{stem}_pb2.py",
        f"{stem}_pb2.pyi",
        f"{stem}_pb2_grpc.py",
        f"{stem}_pb2_grpc.pyi",
    ]
    for file in generated:
        committed = ROOT / folder / file.name
        assert file.read_text() == committed.read_text(), f"{file.name} is out of date: run make protos"


def test_every_field_method_and_value_has_a_comment(descriptor: descriptor_pb2.FileDescriptorProto) -> None:
    commented = {
        tuple(location.path)
        for location in descriptor.source_code_info.location
        if location.leading_comments.strip()
    }
    wanted = [
        path
        for number, message in enumerate(descriptor.message_type)
        for path in of_message(message, (FILE_MESSAGE, number))
    ]
    for e, enum in enumerate(descriptor.enum_type):
        wanted += [(FILE_ENUM, e, ENUM_VALUE, value) for value in range(len(enum.value))]
    for s, service in enumerate(descriptor.service):
        wanted += [(FILE_SERVICE, s, SERVICE_METHOD, method) for method in range(len(service.method))]
    assert wanted
    assert [path for path in wanted if path not in commented] == []


def test_numbers_are_packed(descriptor: descriptor_pb2.FileDescriptorProto) -> None:
    """proto3 packs repeated numbers unless told otherwise; nobody has told otherwise."""
    fields = [field for message in descriptor.message_type for field in fields_of(message)]
    assert [field.name for field in fields if field.options.HasField("packed")] == []
    assert descriptor.syntax == "proto3"


@pytest.mark.parametrize(
    ("proto", "others"),
    [
        ("protos/consort/v1/classifier.proto", {ControlOff, LoadRefused}),
        ("protos/consort/v1/model_control.proto", {LoadRefused, UnknownModel, UnknownService}),
        ("protos/open_inference/v2/grpc_service.proto", set()),
    ],
)
def test_every_status_that_calls_end_with_is_named(proto: str, others: set[type[RequestError]]) -> None:
    """But for errors that its calls do not have."""
    header, _ = (ROOT / proto).read_text().split("syntax =")
    codes = {code.name for error, code in STATUS_CODES.items() if error not in others}
    named = set(re.findall(r"\b[A-Z]+(?:_[A-Z]+)*\b", header.partition("Errors: ")[2]))
    assert codes | {"INTERNAL"} <= named
    assert named <= {code.name for code in StatusCode}
