"""The model that ships with the project, and the example images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.accuracy import measure_served_accuracy
from examples.draw_digits import EXAMPLES, draw_example
from export.manifest import read_manifest
from serving.client import Client
from tests.conftest import StartServer
from training.arrays import load_idx

ROOT = Path(__file__).parents[2]
BUNDLES = {"mnist": ROOT / "models/mnist/2", "mnist-small": ROOT / "models/mnist-small/3"}
DIGITS = sorted((ROOT / "examples/digits").glob("*.png"))


@pytest.fixture
def shipped(start_server: StartServer) -> Client:
    """A client of a server of all models that ship."""
    return Client(f"127.0.0.1:{start_server(ROOT / 'models', default_model='mnist').grpc_port}")


def test_no_more_ships_than_is_served() -> None:
    served = {path for bundle in BUNDLES.values() for path in bundle.iterdir()}
    assert {path for path in (ROOT / "models").rglob("*") if path.is_file()} == served
    assert sum(path.stat().st_size for path in served) <= 20e6


@pytest.mark.parametrize(
    ("name", "members", "multiply_adds", "accuracy"),
    [("mnist", 6, 60_000_000, 0.997), ("mnist-small", 3, 6_000_000, 0.995)],
)
def test_each_model_is_as_cheap_and_as_good_as_it_is_said_to_be(
    name: str, members: int, multiply_adds: int, accuracy: float
) -> None:
    manifest = read_manifest(BUNDLES[name])
    assert len({member.seed for member in manifest.members}) == members
    assert sum(member.multiply_adds for member in manifest.members) <= multiply_adds
    assert manifest.test.count == 10_000
    assert manifest.test.accuracy >= accuracy
    assert manifest.test.ece <= 0.003


@pytest.mark.parametrize("name", BUNDLES)
def test_the_example_images_are_classified_right(name: str, shipped: Client) -> None:
    assert len(DIGITS) == 20
    with shipped as client:
        found = client.classify(DIGITS, model=name).classifications
    assert [one.label for one in found] == [file.name[0] for file in DIGITS]


def test_the_example_images_are_those_that_the_project_draws() -> None:
    for name in EXAMPLES:
        committed = np.asarray(Image.open(ROOT / "examples/digits" / name)).astype(int)
        assert np.abs(committed - np.asarray(draw_example(name))).max() <= 2, name


def test_all_of_mnist_through_grpc_gives_exactly_the_manifests_accuracy(shipped: Client, real_mnist: Path) -> None:
    with shipped as client:
        served = measure_served_accuracy(client, load_idx(real_mnist).test)
    assert served == read_manifest(BUNDLES["mnist"]).test.accuracy
