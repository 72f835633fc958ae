"""The client, as a class and as a command."""

from __future__ import annotations

import os
import re
import socket
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest

from protos.consort.v1 import classifier_pb2 as pb
from serving import admin
from serving.channel import Credentials
from serving.client import CallError, Client
from serving.client.__main__ import ClientSettings, main, read_settings
from serving.server import Server
from tests.conftest import run_server
from tests.imaging.test_files import encode, gradient

NOBODY = "127.0.0.1:1"


@pytest.fixture
def mute() -> Iterator[str]:
    """Address of something that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@contextmanager
def serve_classify(answer: Callable[[pb.ClassifyRequest, grpc.ServicerContext], object]) -> Iterator[str]:
    """Address of something that answers Classify so."""
    server = grpc.server(ThreadPoolExecutor(1))
    handler = grpc.unary_unary_rpc_method_handler(
        answer, pb.ClassifyRequest.FromString, pb.ClassifyResponse.SerializeToString
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("consort.v1.Classifier", {"Classify": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait(60)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    (tmp_path / "3 [b].png").write_bytes(encode(gradient(20)))
    return tmp_path / "3 [b].png"


def test_a_server_that_is_not_there_is_named() -> None:
    with Client(NOBODY, timeout_seconds=2) as client, pytest.raises(CallError) as error:
        client.list_models()
    assert error.value.code == grpc.StatusCode.UNAVAILABLE
    assert NOBODY in error.value.message


def test_waiting_for_a_server_ends() -> None:
    with Client(NOBODY) as client, pytest.raises(CallError, match=f"no server at {NOBODY} within 0.2 s"):
        client.wait_until_ready(0.2)


def test_waiting_that_has_ended_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    watchers: list[object] = []

    class Channel:
        """Never ready; knows who waits for it."""

        def subscribe(self, watcher: object, try_to_connect: bool) -> None:
            watchers.append(watcher)

        def unsubscribe(self, watcher: object) -> None:
            watchers.remove(watcher)

        def unary_unary(self, *_: object, **__: object) -> None:
            """Of the stub, which calls nothing here."""

    monkeypatch.setattr(Credentials, "open_channel", lambda *_: Channel())
    with pytest.raises(CallError, match="no server"):
        Client(NOBODY).wait_until_ready(0.01)
    assert watchers == []


@pytest.mark.parametrize("seconds", [604_801, 1e12, float("inf"), float("-inf"), float("nan")])
def test_timeouts_that_grpc_cannot_keep_are_refused(client: Client, seconds: float) -> None:
    message = f"timeout_seconds is {seconds:g}, expected at most 604800"
    with pytest.raises(ValueError, match=re.escape(message)):
        Client(NOBODY, timeout_seconds=seconds)
    with pytest.raises(ValueError, match=re.escape(message)):
        client.classify(np.zeros((1, 1, 4, 4), np.uint8), timeout_seconds=seconds)
    with pytest.raises(ValueError, match=re.escape(message)):
        client.wait_until_ready(seconds)


def test_the_longest_timeout_is_kept(client: Client) -> None:
    client.wait_until_ready(604_800)
    assert client.classify(np.zeros((1, 1, 4, 4), np.uint8), timeout_seconds=604_800).model_name == "stub"


def test_a_deadline_that_cannot_be_kept(mute: str) -> None:
    with Client(mute) as client, pytest.raises(CallError) as error:
        client.classify(np.zeros((1, 1, 4, 4), np.uint8), timeout_seconds=0.2)
    assert error.value.code == grpc.StatusCode.DEADLINE_EXCEEDED


def has_answered(server: Server) -> bool:
    """Whether a server has answered a call of ListModels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics", timeout=10) as reply:
        return 'consort_call_seconds_count{code="OK",method="ListModels"}' in reply.read().decode()


def test_calls_are_spread_over_all_servers_of_a_target_and_outlive_one(models: Path) -> None:
    with run_server(models) as staying:
        with run_server(models) as leaving:
            servers = (staying, leaving)
            client = Client(f"ipv4:{','.join(f'127.0.0.1:{server.grpc_port}' for server in servers)}")
            for _ in range(1000):
                client.list_models()
                if all(has_answered(server) for server in servers):
                    break
            assert all(has_answered(server) for server in servers)
        with client:
            for _ in range(10):
                client.list_models()


def test_calls_of_many_images_are_sent_again_too() -> None:
    """A megabyte, to a server that is about to stop when it first comes; gRPC by itself retries 256 KiB."""
    images = np.zeros((1000, 1, 32, 32), np.uint8)
    came = []

    def refuse_once(request: pb.ClassifyRequest, context: grpc.ServicerContext) -> pb.ClassifyResponse:
        came.append(len(request.raw.pixels))
        if len(came) == 1:
            context.abort(grpc.StatusCode.UNAVAILABLE, "the server is shutting down")
        return pb.ClassifyResponse(model_name="stub")

    with serve_classify(refuse_once) as address, Client(address, timeout_seconds=60) as client:
        assert client.classify(images).model_name == "stub"
    assert came == [images.nbytes] * 2


@pytest.mark.parametrize("dtype", [np.float64, np.int32, np.bool_])
def test_arrays_of_other_types_are_refused_before_anything_is_sent(client: Client, dtype: type) -> None:
    with pytest.raises(TypeError, match="expected uint8 or float32"):
        client.classify(np.zeros((1, 1, 4, 4), dtype))


@pytest.mark.parametrize("images", ["three.png", b"content", Path("three.png")])
def test_a_single_file_is_not_taken_for_a_list(client: Client, images: object) -> None:
    with pytest.raises(TypeError, match="expected a list of files or an array"):
        client.classify(images)  # type: ignore[arg-type]  # which is the point


def test_arrays_need_not_be_contiguous(client: Client) -> None:
    pixels = np.zeros((4, 4, 1, 2), np.uint8).T[:, :, ::-1]
    assert len(client.classify(pixels).classifications) == 2


def test_the_command_prints_a_row_an_image(
    client: Client, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(image), str(image), "--target", client.target, "--wait-seconds", "5"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("stub, version 1")
    (row, other) = [line for line in printed.splitlines() if "3 [b].png" in line]
    assert row == other
    for cell in ("class 0", "40.00%", "1 of 2", "class 1 35.00%"):
        assert cell in row
    assert "2 images in" in printed


def test_the_command_explains_a_verdict_with_bars(
    client: Client, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The stub's members say 0.7, 0.2, 0.1 and 0.1, 0.5, 0.4: each says another class."""
    assert main(["--explain", str(image), "--target", client.target]) == 0
    printed = capsys.readouterr().out
    assert "3 [b].png: class 0, 40.00%" in printed
    assert "1 of 2 members says class 0, 1 says class 1." in printed
    rows = [line.split() for line in printed.splitlines() if line.strip().startswith("class ") and "%" in line]
    assert [row[1:] for row in rows] == [
        ["0", "━" * 12, "40.00%", "▆", "▁"],
        ["1", "━" * 10, "35.00%", "▂", "▄"],
        ["2", "━" * 8, "25.00%", "▁", "▄"],
    ]
    assert "agreement            1 of 2" in printed
    assert "0 is sure, 1.10 no idea" in printed


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere.png"], 1, "nowhere.png cannot be read: No such file or directory"),
        (["pyproject.toml"], 1, "INVALID_ARGUMENT: image 1 of 1:"),
        (["pyproject.toml", "--model", "other"], 1, "NOT_FOUND: no model 'other' is served; there are stub"),
        (["pyproject.toml", "--timeout-seconds", "0"], 2, "timeout_seconds: Input should be greater than 0"),
        (["pyproject.toml", "--timeout-seconds", "inf"], 2, "timeout_seconds: Input should be a finite number"),
        (["pyproject.toml", "--wait-seconds", "nan"], 2, "wait_seconds: Input should be a finite number"),
        (["pyproject.toml", "--wait-seconds", "1e9"], 2, "wait_seconds: Input should be less than or equal to"),
    ],
)
def test_the_command_explains_what_is_wrong(
    arguments: list[str], code: int, message: str, client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--target", client.target]) == code
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "name",
    [
        "a,b.png",
        "x [1,2].png",
        " lead.png",
        "[3].png",
        "{4}.png",
        "none",
        "12",
        "1e5",
        '"q".png',
        "back\\slash.png",
        "größe.png",
        os.fsdecode(b"latin-\xe9.png"),
    ],
)
def test_the_command_takes_files_of_any_name(
    name: str, client: Client, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(image.parent)
    Path(name).write_bytes(image.read_bytes())
    assert read_settings([name, image.name, name]).images == [Path(name), Path(image.name), Path(name)]
    assert main([name, "--target", client.target]) == 0
    assert main(["--target", client.target, "--", name]) == 0


def test_what_is_called_none_is_asked_for(client: Client, image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(image), "--target", client.target, "--model", "none"]) == 1
    assert main([str(image), "--target", client.target, "--label", "none"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "NOT_FOUND: no model 'none' is served; there are stub",
        "NOT_FOUND: model 'stub' has no label 'none'; there are none",
    ]


def test_the_commands_help_tells_of_files(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    printed = capsys.readouterr().out
    assert "IMAGES [IMAGES ...]" in printed
    assert "PNG, JPEG, WebP or BMP files." in printed


def test_a_variable_that_cannot_be_read_is_named(
    image: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CONSORT_CLIENT_IMAGES", "three.png")
    assert main([str(image)]) == 2
    assert 'error parsing value for field "images"' in capsys.readouterr().err


@pytest.mark.parametrize("token", ["secret\n", "secret\r\n", "sec\0ret", "sécret", "secret\x7f"])
def test_a_token_that_cannot_be_sent_is_refused_and_not_shown(
    token: str, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = "the token has a line break, or another character that is not printable ASCII"
    with pytest.raises(ValueError, match=message) as error:
        Credentials(token=token)
    assert "ret" not in str(error.value)
    assert main([str(image), "--token", token]) == 2
    assert admin.main(["list", "--token", token]) == 1
    printed = capsys.readouterr().err
    assert printed.count(message) == 2
    assert "ret" not in printed


def test_empty_variables_are_not_set(client: Client, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As compose files write one that is not."""
    for name in ClientSettings.model_fields:
        monkeypatch.setenv(f"CONSORT_CLIENT_{name.upper()}", "")
    assert main([str(image), "--target", client.target]) == 0
