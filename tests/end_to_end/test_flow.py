"""The whole path on digits that the project draws: fit, export, serve, classify, measure."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import pytest

from export.__main__ import main as export
from export.manifest import read_manifest
from serving.client import Client
from tests.conftest import StartServer
from tests.digits import draw_digits
from tests.pictures import CLASSES, write_pictures
from training.fit import main as fit
from training.run import Run


@pytest.fixture(scope="module")
def trained_models(drawn_digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with three small networks trained on drawn digits."""
    folder = tmp_path_factory.mktemp("flow")
    arguments = ["--data", str(drawn_digits), "--run", str(folder / "run"), "--recipe", "lesson"]
    assert fit([*arguments, "--members", "3", "--epochs", "5"]) == 0
    assert export([str(folder / "run"), "--name", "drawn", "--models", str(folder / "models")]) == 0
    return folder / "models"


def test_the_server_is_as_accurate_as_the_manifest_says(trained_models: Path, start_server: StartServer) -> None:
    """On the same test images, sent through gRPC; and the figures are those of the average."""
    server = start_server(trained_models)
    images, labels = draw_digits(200, seed=2)
    with Client(f"127.0.0.1:{server.grpc_port}") as client:
        found = client.classify(images[:, None], members=True).classifications
    right = sum(int(one.label) == label for one, label in zip(found, labels, strict=True))
    manifest = read_manifest(trained_models / "drawn" / "1")
    assert right / 200 == manifest.test.accuracy > 0.8
    assert manifest.test.count == 200
    assert all(one.members is not None and len(one.members) == 3 for one in found)
    url = f"http://127.0.0.1:{server.metrics_port}/metrics"
    with urllib.request.urlopen(url, timeout=10) as reply:
        metrics = reply.read().decode()
    assert 'consort_call_seconds_count{code="OK",method="Classify"} 1.0' in metrics
    assert 'consort_member_inference_seconds_count{member="3",model="drawn",version="1"}' in metrics


def test_the_next_version_is_served_beside_the_first(
    trained_models: Path, tmp_path: Path, start_server: StartServer
) -> None:
    run = trained_models.parent / "run"
    models = tmp_path / "models"
    for _ in range(2):
        assert export([str(run), "--name", "drawn", "--models", str(models)]) == 0
    with Client(f"127.0.0.1:{start_server(models, latest_versions=2).grpc_port}") as client:
        assert [(model.version, model.default_version) for model in client.list_models()] == [
            (1, False),
            (2, True),
        ]


def test_the_manifest_tells_people_and_programs_the_same(trained_models: Path) -> None:
    manifest = json.loads((trained_models / "drawn/1/manifest.json").read_text())
    assert manifest["parity"]["largest_difference"] <= 1e-5
    assert manifest["recipe"]["architectures"] == ["cnn_bn_dropout"]
    assert len(manifest["members"]) == 3


def test_a_folder_of_colour_pictures_trains_exports_and_serves(tmp_path: Path, start_server: StartServer) -> None:
    """Ten classes, 32x32 pixels, not a line of code; new pictures of another size are recognized."""
    data = write_pictures(tmp_path / "pictures", count_per_class=40)
    run, models = str(tmp_path / "run"), tmp_path / "models"
    assert fit(["--data", str(data), "--run", run, "--members", "2", "--epochs", "12"]) == 0
    assert Run.open(Path(run)).settings.recipe.name == "photographs with members=2, epochs=12, flip=False"
    assert export([run, "--name", "pictures", "--models", str(models)]) == 0
    fresh = write_pictures(tmp_path / "fresh", count_per_class=4, side=50, seed=9)
    files = sorted(fresh.rglob("*.png"))
    with Client(f"127.0.0.1:{start_server(models).grpc_port}") as client:
        assert list(client.get_model().class_labels) == sorted(CLASSES)
        found = client.classify(files).classifications
    right = sum(one.label == file.parent.name for one, file in zip(found, files, strict=True))
    assert right >= 0.8 * len(files)
