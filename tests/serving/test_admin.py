"""Models controlled by call and by people: what is allowed, what is shown, and how commands end."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from protos.consort.v1 import model_control_pb2, model_control_pb2_grpc
from protos.open_inference.v2 import grpc_service_pb2 as pb
from protos.open_inference.v2 import grpc_service_pb2_grpc
from serving.admin import main
from serving.labels import read_labels
from serving.server import Server
from tests.bundles import write_bundle
from tests.conftest import StartServer
from tests.serving.test_server import target

OFF = "models are not controlled by call here; the setting model_control allows it"


@pytest.fixture
def server(tmp_path: Path, start_server: StartServer) -> Server:
    """A server of one good version and a newer bad one, which does not watch its folder."""
    write_bundle(tmp_path)
    (write_bundle(tmp_path, version=2) / "member-1.onnx").unlink()
    return start_server(tmp_path, model_control=True, strict_start=False, watch_seconds=0)


@pytest.fixture
def channel(server: Server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(target(server)) as channel:
        yield channel


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output without its layout, and standard error of a command."""
    code = main(arguments)
    out, error = capsys.readouterr()
    return code, " ".join(out.split()), error


def refused(call: Any, request: Any) -> tuple[grpc.StatusCode, str | None]:
    """Code and message of a call that must fail."""
    with pytest.raises(grpc.RpcError) as error:
        call(request, timeout=60)
    return error.value.code(), error.value.details()


class TestCommands:
    def test_list_names_every_version_and_why_it_is_not_served(
        self, server: Server, capsys: pytest.CaptureFixture[str]
    ) -> None:
        code, out, _ = run(capsys, "list", "--target", target(server))
        assert code == 0
        assert "stub 1 READY" in out
        assert "stub 2 UNAVAILABLE stub/2: member-1.onnx is not" in out

    def test_unload_and_load(self, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        where = ("--target", target(server))
        code, out, _ = run(capsys, "unload", "stub", *where)
        assert (code, "stub 1 UNAVAILABLE unloaded by call" in out) == (0, True)
        code, _, error = run(capsys, "unload", "stub", *where)
        assert (code, error) == (1, f"{target(server)}: NOT_FOUND: no model 'stub' is served\n")
        code, _, error = run(capsys, "load", "stub", *where)
        assert (code, "FAILED_PRECONDITION: stub/2: member-1.onnx is not a regular file" in error) == (1, True)
        (tmp_path / "stub/2").rename(tmp_path / ".bad")
        code, out, _ = run(capsys, "load", "stub", *where)
        assert (code, "stub 1 READY" in out) == (0, True)

    def test_refusals_tell_what_was_refused_and_what_still_is(
        self, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        where = ("--target", target(server))
        _, out, _ = run(capsys, "refusals", "stub", *where)
        assert "Z stub 2 refused stub/2: member-1.onnx" in out
        (tmp_path / "stub/2").rename(tmp_path / ".bad")
        run(capsys, "load", "stub", *where)
        _, out, _ = run(capsys, "refusals", *where)
        assert "Z stub 2 stub/2: member-1.onnx" in out
        _, out, _ = run(capsys, "refusals", "other", *where)
        assert "stub" not in out

    def test_label_writes_the_file_that_servers_follow(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = write_bundle(tmp_path).parent
        where = ("--models", str(tmp_path))
        assert run(capsys, "label", "stub", "stable", "1", *where)[0] == 0
        code, out, _ = run(capsys, "label", "stub", "canary", "1", *where)
        assert (code, "canary 1 stable 1" in out) == (0, True)
        assert read_labels(folder) == {"stable": 1, "canary": 1}
        assert run(capsys, "label", "stub", "canary", "none", *where)[0] == 0
        assert read_labels(folder) == {"stable": 1}
        assert sorted(file.name for file in folder.iterdir()) == ["1", "labels.json"]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("stub", "stable", "7"), "has no version 7 of 'stub'"),
            (("other", "stable", "1"), "has no version 1 of 'other'"),
            (("stub", "Stable", "1"), "Stable.[key]: String should match pattern"),
        ],
    )
    def test_labels_that_cannot_be_are_refused(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
    ) -> None:
        write_bundle(tmp_path)
        code, _, error = run(capsys, "label", *arguments, "--models", str(tmp_path))
        assert (code, message in error) == (1, True)

    @pytest.mark.parametrize("seconds", ["inf", "1e9", "soon"])
    def test_a_time_that_cannot_be_kept_is_refused(self, capsys: pytest.CaptureFixture[str], seconds: str) -> None:
        with pytest.raises(SystemExit, match="2"):
            main(["list", "--timeout-seconds", seconds])
        assert re.search("expected at most 604800|could not convert", capsys.readouterr().err)

    def test_a_server_that_is_not_there_is_named(self, capsys: pytest.CaptureFixture[str]) -> None:
        code, _, error = run(capsys, "list", "--target", "127.0.0.1:1", "--timeout-seconds", "2")
        assert (code, error.startswith("127.0.0.1:1: UNAVAILABLE")) == (1, True)

    @pytest.mark.parametrize("arguments", [(), ("reload",), ("load",), ("label", "stub", "stable", "one")])
    def test_what_is_not_understood(self, arguments: tuple[str, ...]) -> None:
        with pytest.raises(SystemExit, match="2"):
            main(arguments)

    @pytest.mark.parametrize("command", ["list", "load", "unload", "label", "refusals"])
    def test_every_command_has_a_help(self, command: str, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit, match="0"):
            main([command, "--help"])
        assert f"python -m serving.admin {command}" in capsys.readouterr().out


class TestControl:
    def test_nothing_is_controlled_by_call_unless_the_settings_allow_it(
        self, models: Path, start_server: StartServer
    ) -> None:
        with grpc.insecure_channel(target(start_server(models))) as channel:
            stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
            ours = model_control_pb2_grpc.ModelControlStub(channel)
            for call, request in (
                (stub.RepositoryIndex, pb.RepositoryIndexRequest()),
                (stub.RepositoryModelLoad, pb.RepositoryModelLoadRequest(model_name="stub")),
                (stub.RepositoryModelUnload, pb.RepositoryModelUnloadRequest(model_name="stub")),
                (ours.ListRefusals, model_control_pb2.ListRefusalsRequest()),
            ):
                assert refused(call, request) == (grpc.StatusCode.PERMISSION_DENIED, OFF)
            assert stub.ModelReady(pb.ModelReadyRequest(name="stub"), timeout=60).ready

    def test_the_index_can_be_of_what_is_served_alone(self, channel: grpc.Channel) -> None:
        stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
        listed = stub.RepositoryIndex(pb.RepositoryIndexRequest(ready=True), timeout=60).models
        assert [(one.name, one.version, one.state, one.reason) for one in listed] == [("stub", "1", "READY", "")]

    def test_a_folder_that_is_away_changes_nothing(self, tmp_path: Path, start_server: StartServer) -> None:
        models = tmp_path / "models"
        write_bundle(models)
        with grpc.insecure_channel(target(start_server(models, model_control=True, watch_seconds=0))) as channel:
            stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
            models.rename(tmp_path / "away")
            assert refused(stub.RepositoryModelLoad, pb.RepositoryModelLoadRequest(model_name="stub")) == (
                grpc.StatusCode.FAILED_PRECONDITION,
                "the models folder cannot be read; nothing was changed",
            )
            assert stub.ModelReady(pb.ModelReadyRequest(name="stub"), timeout=60).ready

    def test_what_cannot_be_honoured_is_refused(self, channel: grpc.Channel) -> None:
        stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
        invalid = grpc.StatusCode.INVALID_ARGUMENT
        one_folder = "repository_name is 'x'; there is one models folder, leave it empty"
        for call, request in (
            (stub.RepositoryIndex, pb.RepositoryIndexRequest(repository_name="x")),
            (stub.RepositoryModelLoad, pb.RepositoryModelLoadRequest(repository_name="x", model_name="stub")),
            (stub.RepositoryModelUnload, pb.RepositoryModelUnloadRequest(repository_name="x", model_name="stub")),
        ):
            assert refused(call, request) == (invalid, one_folder)
        files = {"file:1/model.onnx": pb.ModelRepositoryParameter(bytes_param=b"x")}
        assert refused(
            stub.RepositoryModelLoad, pb.RepositoryModelLoadRequest(model_name="stub", parameters=files)
        ) == (invalid, "parameter 'file:1/model.onnx' is not understood; understood: none")
