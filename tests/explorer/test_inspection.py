"""What excites a unit most is shown for the run's own members, and for no other."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from explorer.app import build_app
from explorer.network import Bundles
from tests.conftest import run_server
from tests.explorer.conftest import settings_for

DIGITS = "name=digits&version=1&member=1"


def layer_number(models: Path, title: str) -> int:
    layers = Bundles(models).network("digits", 1, 1).layers
    return [layer.title for layer in layers].index(title)


@pytest.fixture
def http(inspected_bundle: Path, inspected_run: Path) -> Iterator[TestClient]:
    """An explorer with the run of its model; what excites a unit needs no server."""
    with TestClient(build_app(settings_for(models=inspected_bundle, run=inspected_run))) as client:
        yield client


def ask_without_server(models: Path, run: Path | None, query: str) -> dict[str, Any]:
    with TestClient(build_app(settings_for(models=models, run=run))) as http:
        answer: dict[str, Any] = http.get(f"/api/excited?{query}").json()
    return answer


@pytest.mark.parametrize(
    ("shown", "learned", "channel"),
    [
        ("convolution 2", "convolution 2", 5),
        ("activation 2", "convolution 2", 31),
        ("pooling 1", "convolution 1", 0),
        ("dense 2", "dense 2", 3),
        ("softmax 1", "dense 2", 9),
    ],
)
def test_a_layers_unit_is_that_of_the_layer_that_learned_it(
    http: TestClient, inspected_bundle: Path, inspected_run: Path, shown: str, learned: str, channel: int
) -> None:
    query = f"{DIGITS}&layer={layer_number(inspected_bundle, shown)}&channel={channel}"
    found = http.get(f"/api/excited?{query}").json()["found"]
    stem = inspected_run / "inspect/member-1" / learned.replace(" ", "-")
    written = json.loads(stem.with_suffix(".json").read_text())
    assert (found["title"], found["unit"]) == (learned, channel)
    assert found["values"] == written["values"][channel]
    assert found["maximised"] == written["maximised"][channel]
    assert found["labels"] == [str(label) for label in written["labels"][channel]]
    assert "blurred" in found["regularisation"]
    reply = http.get(f"/api/pictures?{query}")
    assert reply.headers["content-type"] == "image/png"
    row = np.asarray(Image.open(BytesIO(reply.content)))
    sheet = np.asarray(Image.open(stem.with_suffix(".png")))
    assert np.array_equal(row, sheet[channel * 28 : channel * 28 + 28])


@pytest.mark.parametrize(
    ("title", "message"),
    [
        ("input, normalized", "has no units of the input."),
        ("dense 1", "has no units of dense 1."),  # of 128 units, and 64 were allowed
    ],
)
def test_layers_that_were_not_looked_at_are_named(
    http: TestClient, inspected_bundle: Path, title: str, message: str
) -> None:
    query = f"{DIGITS}&layer={layer_number(inspected_bundle, title)}&channel=0"
    answer = http.get(f"/api/excited?{query}").json()
    assert answer["found"] is None
    assert message in answer["why"]
    assert http.get(f"/api/pictures?{query}").status_code == 404


def test_a_member_of_another_run_is_not_given_this_ones_pictures(http: TestClient, inspected_run: Path) -> None:
    answer = http.get("/api/excited?name=stub&version=1&member=1&layer=1&channel=0").json()
    assert answer["found"] is None
    assert f"The run {inspected_run} did not make this member" in answer["why"]


def test_without_a_run_and_before_it_was_looked_into_the_command_is_named(
    inspected_bundle: Path, tmp_path: Path
) -> None:
    query = f"{DIGITS}&layer=1&channel=0"
    answer = ask_without_server(inspected_bundle, None, query)
    assert "is found by python -m training.inspect RUN" in answer["why"]
    assert "--run RUN" in answer["why"]
    (tmp_path / "report.html").touch()
    answer = ask_without_server(inspected_bundle, tmp_path, query)
    assert f"python -m training.inspect {tmp_path}." in answer["why"]


@pytest.mark.parametrize("file", ["index.json", "member-1/convolution-1.json", "member-1/convolution-1.png"])
@pytest.mark.parametrize("content", [b"", b"{}", b"\x89PNG\r\n\x1a\n broken"])
def test_a_damaged_file_is_named(
    inspected_bundle: Path, inspected_run: Path, tmp_path: Path, file: str, content: bytes
) -> None:
    run = tmp_path / "run"
    shutil.copytree(inspected_run, run)
    (run / "inspect" / file).write_bytes(content)
    with TestClient(build_app(settings_for(models=inspected_bundle, run=run))) as http:
        reply = http.get(f"/api/pictures?{DIGITS}&layer=1&channel=0")
    assert reply.status_code == 404
    assert f"{run / 'inspect' / file} cannot be used" in reply.json()["message"]


def test_any_value_has_gradients_and_can_be_had_for_many_inputs(inspected_bundle: Path) -> None:
    """And what is no value of the layer is refused."""
    index = layer_number(inspected_bundle, "convolution 2")
    pixels = np.random.default_rng(2).integers(0, 256, 784, np.uint8).tobytes()
    with (
        run_server(inspected_bundle, default_model="digits") as server,
        TestClient(build_app(settings_for(server, models=inspected_bundle))) as http,
    ):
        reply = http.post(f"/api/gradients?{DIGITS}&layer={index}&unit=3199", content=pixels).json()
        assert reply["plain"]["shape"] == reply["guided"]["shape"] == [1, 28, 28]
        values = http.post(f"/api/values?{DIGITS}&layer={index}&unit=3199", content=2 * pixels).json()["values"]
        shown = http.post(f"/api/activations?{DIGITS}&layer={index}", content=pixels).json()["values"]["float32"]
        assert values == pytest.approx([np.frombuffer(base64.b64decode(shown), "<f4")[3199]] * 2, abs=1e-4)
        refused = http.post(f"/api/gradients?{DIGITS}&layer={index}&unit=3200", content=pixels)
        assert (refused.status_code, "from 0 to 3199" in refused.json()["message"]) == (400, True)
        refused = http.post(f"/api/gradients?{DIGITS}&layer=0&unit=0", content=pixels)
        assert (refused.status_code, refused.json()["kind"]) == (422, "request")
