"""What a graph's layers are, how far they see, and what they give."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from explorer.errors import BundleUnusable, InvalidRequest
from explorer.layers import find_layers
from explorer.network import Bundles, Network
from export.manifest import INPUT_NAME, OUTPUT_NAME, read_manifest, sha256_of
from tests.bundles import StubMember, write_bundle
from tests.explorer.conftest import MNIST_VERSION, ROOT, SMALL_VERSION


def small_graph(file: Path) -> onnx.ModelProto:
    """3x3 convolution, 2x2 pooling with stride 2, 3x3 convolution with dilation 2, dense, softmax, on 1x16x16."""
    ones = [
        ("first", np.ones((2, 1, 3, 3), np.float32)),
        ("second", np.ones((1, 2, 3, 3), np.float32)),
        ("dense", np.eye(9, 3, dtype=np.float32)),
    ]
    nodes = [
        helper.make_node("Cast", [INPUT_NAME], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["floats", "first"], ["a"], kernel_shape=[3, 3]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MaxPool", ["b"], ["c"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["c", "second"], ["d"], kernel_shape=[3, 3], dilations=[2, 2]),
        helper.make_node("Flatten", ["d"], ["e"]),
        helper.make_node("MatMul", ["e", "dense"], ["f"]),
        helper.make_node("Softmax", ["f"], [OUTPUT_NAME], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(INPUT_NAME, TensorProto.UINT8, ["batch", 1, 16, 16])],
        [helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(values, name) for name, values in ones],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, file)
    return model


def test_layers_have_names_shapes_and_receptive_fields(tmp_path: Path) -> None:
    """By hand: 3; pooling adds 1 x 1 and doubles the jump; dilation 2 adds 2 x 2 x 2 = 8 to 4."""
    layers = find_layers(small_graph(tmp_path / "small.onnx"))
    assert [(layer.title, layer.shape, layer.field.height, layer.field.jump) for layer in layers] == [
        ("input, normalized", (1, 16, 16), 1, 1),
        ("convolution 1", (2, 14, 14), 3, 1),
        ("activation 1", (2, 14, 14), 3, 1),
        ("pooling 1", (2, 7, 7), 4, 2),
        ("convolution 2", (1, 3, 3), 12, 2),
        ("dense 1", (3,), None, 2),
        ("softmax 1", (3,), None, 2),
    ]
    assert [layer.source for layer in layers] == [
        "",
        *["convolution 1"] * 3,
        "convolution 2",
        *["dense 1"] * 2,
    ]


@pytest.mark.parametrize(("name", "version"), [("mnist", MNIST_VERSION), ("mnist-small", SMALL_VERSION)])
def test_layers_begin_with_what_normalization_gives(name: str, version: int) -> None:
    """Whatever operators it is made of: its ReLU is no layer of the network."""
    bundles = Bundles(ROOT / "models")
    for member, _ in enumerate(read_manifest(ROOT / f"models/{name}/{version}").members, 1):
        layers = bundles.network(name, version, member).layers
        assert [layer.title for layer in layers[:2]] == ["input, normalized", "convolution 1"]
        assert layers[0].shape == (1, 28, 28)
        assert layers[-1].title == "softmax 1"


def test_every_layer_gives_its_values(tmp_path: Path) -> None:
    """All weights are 1: on an input of ones, 9 after the first convolution, 2 x 9 x 9 after the second."""
    small_graph(tmp_path / "small.onnx")
    network = Network(tmp_path / "small.onnx", (1, 16, 16))
    pixels = np.ones((1, 16, 16), np.uint8)
    values = {layer.title: network.activations(pixels, layer)[0] for layer in network.layers}
    assert {title: np.unique(found).tolist() for title, found in values.items() if found.ndim == 3} == {
        "input, normalized": [1],
        "convolution 1": [9],
        "activation 1": [9],
        "pooling 1": [9],
        "convolution 2": [162],
    }
    assert values["dense 1"].tolist() == [162, 162, 162]
    assert values["softmax 1"] == pytest.approx([1 / 3] * 3)
    assert network.filters is not None
    assert network.filters.shape == (2, 1, 3, 3)


@pytest.mark.parametrize(("name", "version"), [("mnist", MNIST_VERSION), ("mnist-small", SMALL_VERSION)])
def test_what_is_looked_into_gives_what_was_recorded_when_the_bundle_was_written(name: str, version: int) -> None:
    """Through the self-check's inputs; nothing is fused, so the last bits may differ."""
    manifest = json.loads((ROOT / f"models/{name}/{version}/manifest.json").read_text())
    bundles = Bundles(ROOT / "models")
    check = manifest["self_check"]
    images = np.frombuffer(base64.b64decode(check["pixels_base64"]), np.uint8).reshape(-1, 1, 28, 28)
    for member, answers in enumerate(check["member_probabilities"], 1):
        network = bundles.network(name, version, member)
        for image, expected in zip(images, answers, strict=True):
            _, probabilities = network.activations(image, network.layers[1])
            assert probabilities == pytest.approx(expected, abs=1e-5)


def test_a_network_without_convolutions_has_layers_and_no_filters(tmp_path: Path) -> None:
    write_bundle(tmp_path)
    network = Bundles(tmp_path).network("stub", 1, 1)
    assert [layer.title for layer in network.layers] == ["input, normalized", "dense 1", "softmax 1"]
    assert network.filters is None


@pytest.mark.parametrize(
    ("key", "error", "message"),
    [
        (("stub", 2, 1), BundleUnusable, "has no bundle stub/2"),
        (("../stub", 1, 1), InvalidRequest, "is none that a model can have"),
        (("stub", 1, 0), InvalidRequest, "member is 0, expected 1 to 2"),
        (("stub", 1, 3), InvalidRequest, "member is 3, expected 1 to 2"),
    ],
)
def test_what_is_not_there_is_said(tmp_path: Path, key: tuple[str, int, int], error: Any, message: str) -> None:
    write_bundle(tmp_path)
    with pytest.raises(error) as raised:
        Bundles(tmp_path).network(*key)
    assert message in str(raised.value)


def test_a_file_that_the_manifest_does_not_describe_is_not_opened(tmp_path: Path) -> None:
    file = write_bundle(tmp_path) / "member-1.onnx"
    file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(BundleUnusable, match=r"member-1\.onnx of stub/1 is not the file"):
        Bundles(tmp_path).network("stub", 1, 1)


def test_a_bundle_that_is_damaged_is_not_said_to_be_absent(tmp_path: Path) -> None:
    manifest = write_bundle(tmp_path) / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:-20])
    with pytest.raises(BundleUnusable, match="The bundle stub/1 that the explorer has is damaged: "):
        Bundles(tmp_path).network("stub", 1, 1)


def test_a_member_that_no_library_reads_is_said(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path)
    (bundle / "member-1.onnx").write_bytes(b"no protobuf")
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["members"][0]["sha256"] = sha256_of(bundle / "member-1.onnx")
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleUnusable, match=r"member-1\.onnx of stub/1 cannot be looked into: "):
        Bundles(tmp_path).network("stub", 1, 1)


def test_a_bundle_that_takes_anothers_place_is_opened_anew(tmp_path: Path) -> None:
    bundles = Bundles(tmp_path)
    bundle = write_bundle(tmp_path, [StubMember((0.7, 0.2, 0.1))])
    before = bundles.network("stub", 1, 1)
    assert bundles.network("stub", 1, 1) is before
    shutil.rmtree(bundle)
    write_bundle(tmp_path, [StubMember((0.1, 0.2, 0.7))])
    _, probabilities = bundles.network("stub", 1, 1).activations(np.zeros((1, 4, 4), np.uint8), before.layers[0])
    assert probabilities == pytest.approx([0.1, 0.2, 0.7])
