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
BUNDLE = ROOT / "models/mnist/1"
DIGITS = sorted((ROOT / "examples/digits").glob("*.png"))


@pytest.fixture
def shipped(start_server: StartServer) -> Client:
    """A client of a server of all models that ship."""
    return Client(f"127.0.0.1:{start_server(ROOT / 'models').grpc_port}")


def test_six_members_in_fifteen_megabytes() -> None:
    manifest = read_manifest(BUNDLE)
    assert len(manifest.members) == 6
    assert len({member.seed for member in manifest.members}) == 6
    assert sum(file.stat().st_size for file in BUNDLE.iterdir()) <= 15e6
    assert manifest.test.count == 10_000
    assert manifest.test.accuracy >= 0.995
    assert manifest.tools["torch"]


def test_the_example_images_are_classified_right(shipped: Client) -> None:
    assert len(DIGITS) == 20
    with shipped as client:
        found = client.classify(DIGITS).classifications
    assert [one.label for one in found] == [file.name[0] for file in DIGITS]


def test_the_example_images_are_those_that_the_project_draws() -> None:
    for name in EXAMPLES:
        committed = np.asarray(Image.open(ROOT / "examples/digits" / name)).astype(int)
        assert np.abs(committed - np.asarray(draw_example(name))).max() <= 2, name


def test_all_of_mnist_through_grpc_gives_exactly_the_manifests_accuracy(shipped: Client, real_mnist: Path) -> None:
    with shipped as client:
        served = measure_served_accuracy(client, load_idx(real_mnist).test)
    assert served == read_manifest(BUNDLE).test.accuracy
