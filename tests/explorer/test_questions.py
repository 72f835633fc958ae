"""What the page may ask, over HTTP, with a real server behind."""

from __future__ import annotations

import base64
import io
import math
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from explorer.app import STATIC, build_app
from explorer.errors import RequestError
from explorer.replies import CALL_FAILURES, REQUEST_FAILURES
from protos.open_inference.v2 import grpc_service_pb2 as oip
from protos.open_inference.v2 import grpc_service_pb2_grpc
from serving.client import Client
from serving.server import Server
from tests.bundles import write_bundle
from tests.conftest import run_server
from tests.explorer.conftest import MNIST_VERSION, ROOT, SMALL_VERSION, settings_for
from tests.imaging.test_files import encode, gradient

THREE = (ROOT / "examples/digits/3-dark-on-light.png").read_bytes()
PAGE_BYTES = 300_000
MEMBER = f"name=mnist&version={MNIST_VERSION}&member=2"


def subclasses(kind: type[Exception]) -> Iterator[type[Exception]]:
    for one in kind.__subclasses__():
        yield one
        yield from subclasses(one)


def unload(server: Server, name: str) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        control = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
        control.RepositoryModelUnload(oip.RepositoryModelUnloadRequest(model_name=name), timeout=60)


def pixels_of(reply: dict[str, dict[str, str]]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.frombuffer(base64.b64decode(reply["input"]["pixels"]), np.uint8).reshape(1, 1, 28, 28)


@pytest.mark.parametrize("early_stop", [0, 1])
def test_a_pictures_figures_are_those_of_a_direct_call(http: TestClient, shipped: Server, early_stop: int) -> None:
    reply = http.post(f"/api/classify?centre=1&early_stop={early_stop}", content=THREE).json()
    with Client(f"127.0.0.1:{shipped.grpc_port}") as client:
        direct = client.classify(pixels_of(reply), members=True, early_stop=bool(early_stop)).classifications[0]
    said = reply["verdict"]
    assert (said["label"], said["members_run"]) == ("3", 4 if early_stop else 6)
    assert said["probabilities"] == direct.probabilities.tolist()
    assert direct.members is not None
    assert said["members"] == direct.members.tolist()
    assert (said["entropy"], said["mutual_information"]) == (direct.entropy, direct.mutual_information)
    assert reply["model"] == {"name": "mnist", "version": MNIST_VERSION}


def test_every_example_is_read_right_as_it_is_and_centred(http: TestClient) -> None:
    examples = http.get("/api/page").json()["examples"]
    assert len(examples) == 20
    for name in examples:
        file = http.get(f"/examples/{name}").content
        for centre in (0, 1):
            said = http.post(f"/api/classify?centre={centre}", content=file).json()["verdict"]
            assert said["label"] == name[0], (name, centre)


def test_the_stages_of_a_call_are_within_one_another(http: TestClient) -> None:
    timing = http.post("/api/classify?centre=1", content=THREE).json()["timing"]
    server = timing["server"]
    assert 0 < server["inference"] < server["total"] < timing["call"]
    assert timing["prepare"] > 0


def test_many_inputs_are_answered_in_one_call_and_in_order(http: TestClient, shipped: Server) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (5, 1, 28, 28), np.uint8)
    said = http.post("/api/batch?name=mnist-small", content=pixels.tobytes()).json()["verdicts"]
    with Client(f"127.0.0.1:{shipped.grpc_port}") as client:
        direct = client.classify(pixels, model="mnist-small", members=True)
    assert [one["probabilities"] for one in said] == [one.probabilities.tolist() for one in direct.classifications]


def test_a_layers_values_come_with_probabilities_that_are_the_servers(http: TestClient) -> None:
    reply = http.post("/api/classify?centre=1", content=THREE).json()
    layers = http.get(f"/api/layers?{MEMBER}").json()
    kinds = [layer["kind"] for layer in layers["layers"]]
    assert kinds.count("convolution") >= 2
    first = kinds.index("convolution")
    found = http.post(f"/api/activations?{MEMBER}&layer={first}", content=pixels_of(reply).tobytes()).json()
    shape = layers["layers"][first]["shape"]
    assert found["values"]["shape"] == shape
    assert len(base64.b64decode(found["values"]["float32"])) == 4 * math.prod(shape)
    assert layers["filters"]["shape"][:2] == [shape[0], 1]
    assert found["probabilities"] == pytest.approx(reply["verdict"]["members"][1], abs=1e-5)


def test_models_and_their_figures(http: TestClient) -> None:
    listed = http.get("/api/models").json()
    assert [(model["name"], model["version"]) for model in listed["models"]] == [
        ("mnist", MNIST_VERSION),
        ("mnist-small", SMALL_VERSION),
    ]
    assert listed["default"]["name"] == "mnist"
    model = http.get("/api/model?name=mnist-small").json()
    assert (model["name"], model["shape"], len(model["members"])) == ("mnist-small", [1, 28, 28], 3)
    assert model["test"]["interval"][0] < model["test"]["accuracy"] < model["test"]["interval"][1]


def test_a_server_without_a_default_model_has_its_first_one_shown(tmp_path: Path) -> None:
    write_bundle(tmp_path, name="b")
    write_bundle(tmp_path, name="a")
    with run_server(tmp_path) as server, TestClient(build_app(settings_for(server, models=tmp_path))) as http:
        assert http.get("/api/models").json()["default"]["name"] == "a"


def test_a_server_whose_only_model_is_unloaded_is_said_plainly(tmp_path: Path) -> None:
    """By a kind that the page asks again about: the model may be loaded again."""
    write_bundle(tmp_path)
    with (
        run_server(tmp_path, model_control=True, watch_seconds=0) as server,
        TestClient(build_app(settings_for(server, models=tmp_path))) as http,
    ):
        unload(server, "stub")
        reply = http.get("/api/models")
    assert (reply.status_code, reply.json()) == (
        503,
        {"kind": "empty", "message": "The server has no model loaded."},
    )


def test_metrics_count_the_images_that_the_page_asks_about(http: TestClient) -> None:
    before = http.get("/api/metrics").json()
    http.post("/api/classify?centre=1", content=THREE)
    after = http.get("/api/metrics").json()
    assert after["images"] - before["images"] == 1
    assert after["buckets"][-1][1] - before["buckets"][-1][1] == 1


@pytest.mark.parametrize(
    ("path", "content", "status", "message"),
    [
        ("classify", b"<svg onload='alert(1)'/>", 422, "it is 24 bytes that are no PNG, JPEG, WebP or BMP file."),
        ("classify?centre=1", encode(gradient(64))[:-60], 422, "a damaged PNG file of 64x64 pixels"),
        ("classify", encode(Image.new("1", (5001, 5000))), 422, "5001x5000 pixels, more than the limit"),
        ("classify", b"x" * 70_000, 413, "This is larger than the limit of 65,536 bytes."),
        ("classify?centre=yes", THREE, 400, "centre is 'yes', expected a whole number from 0 to 1"),
        ("classify?version=-1", THREE, 400, "version is '-1', expected a whole number"),
        ("classify?name=other", THREE, 404, "The server no longer has this model. It says: no model 'other'"),
        ("batch", b"x" * 785, 400, "785 bytes came, expected 1 to 4 inputs of 784 bytes each"),
        ("batch", b"x" * 784 * 5, 400, "expected 1 to 4 inputs"),
        ("batch", b"", 400, "0 bytes came"),
        (f"activations?{MEMBER}&layer=99", b"x" * 784, 400, "layer is '99', expected"),
        (
            f"activations?name=mnist&version={MNIST_VERSION}&member=9&layer=1",
            b"x" * 784,
            400,
            "member is 9, expected 1 to 6",
        ),
        ("activations?name=mnist&version=7&member=1&layer=1", b"x" * 784, 409, "has no bundle mnist/7"),
    ],
)
def test_what_cannot_be_is_refused_with_a_sentence(
    shipped: Server, path: str, content: bytes, status: int, message: str
) -> None:
    settings = settings_for(shipped, max_upload_bytes=65_536, max_call_images=4)
    with TestClient(build_app(settings)) as http:
        reply = http.post(f"/api/{path}", content=content)
    assert reply.status_code == status
    assert message in reply.json()["message"]


def test_animations_are_refused(http: TestClient) -> None:
    frames = [Image.new("L", (30, 30), shade) for shade in (0, 128, 255)]
    file = io.BytesIO()
    frames[0].save(file, "PNG", save_all=True, append_images=frames[1:])
    reply = http.post("/api/classify?centre=1", content=file.getvalue())
    assert (reply.status_code, "an animation of 3 frames" in reply.json()["message"]) == (422, True)


def test_a_server_that_is_not_there_is_said_plainly(shipped: Server) -> None:
    with TestClient(build_app(settings_for(shipped, target="127.0.0.1:1", timeout_seconds=2))) as http:
        reply = http.get("/api/models")
    assert reply.status_code == 503
    assert reply.json() == {"kind": "down", "message": "The server does not answer."}


def test_a_server_that_takes_too_long_is_said_plainly(shipped: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        target = f"127.0.0.1:{mute.getsockname()[1]}"
        with TestClient(build_app(settings_for(shipped, target=target, timeout_seconds=0.2))) as http:
            reply = http.get("/api/models")
    assert reply.status_code == 504
    assert reply.json() == {"kind": "slow", "message": "The server took too long to answer."}


def test_a_client_that_asks_too_often_is_refused(shipped: Server) -> None:
    with TestClient(build_app(settings_for(shipped, requests_per_second=0.001))) as http:
        assert http.get("/api/page").status_code == 200
        reply = http.get("/api/page")
        assert http.get("/").status_code == 200
    assert (reply.status_code, reply.json()["kind"]) == (429, "busy")


def test_every_request_error_has_its_status_and_kind() -> None:
    assert set(subclasses(RequestError)) == set(REQUEST_FAILURES)
    statuses = [status for status, _ in REQUEST_FAILURES.values()] + [
        status for status, _, _ in CALL_FAILURES.values()
    ]
    assert min(statuses) >= 400


def test_the_report_of_the_run_is_served_when_one_is_named(shipped: Server, tmp_path: Path) -> None:
    """It may have its pictures and its style inside, and no script."""
    (tmp_path / "report.html").write_text("<h1>Report</h1>")
    with TestClient(build_app(settings_for(shipped, run=tmp_path))) as http:
        assert http.get("/api/page").json()["report"] is True
        reply = http.get("/report")
    assert reply.text == "<h1>Report</h1>"
    assert "sandbox" in reply.headers["content-security-policy"]
    assert "script" not in reply.headers["content-security-policy"]


def test_without_a_run_there_is_no_report(http: TestClient) -> None:
    reply = http.get("/report")
    assert (reply.status_code, reply.json()["message"]) == (
        400,
        "No run was named: start the explorer with --run.",
    )


@pytest.mark.parametrize(
    "path", ["/", "/static/main.js", "/api/page", "/nowhere", "/examples/3-dark-on-light.png"]
)
def test_every_reply_lets_nothing_in_from_elsewhere(http: TestClient, path: str) -> None:
    headers = http.get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"


def test_the_page_has_no_inline_script_or_style_and_names_no_other_host() -> None:
    page = (STATIC / "index.html").read_text()
    assert re.findall(r"<script(?![^>]*\bsrc=)|<style|\bstyle=|\bon\w+=", page) == []
    for file in STATIC.iterdir():
        found = set(re.findall(r"https?://[^\s\"'`)]+", file.read_text()))
        assert found <= {"http://www.w3.org/2000/svg"}, file.name


def test_the_page_weighs_no_more_than_it_may(http: TestClient) -> None:
    """Everything that opening it loads, uncompressed: files and examples."""
    examples = http.get("/api/page").json()["examples"]
    paths = [f"/static/{file.name}" for file in STATIC.iterdir()] + [f"/examples/{name}" for name in examples]
    assert sum(len(http.get(path).content) for path in ["/", *paths]) <= PAGE_BYTES


def test_nothing_outside_its_folders_is_served(http: TestClient) -> None:
    for path in ("/static/../errors.py", "/static/%2e%2e/errors.py", "/examples/..%2fdraw_digits.py"):
        assert http.get(path).status_code == 404
