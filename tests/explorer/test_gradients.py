"""Gradients from the graph alone are those that torch's autograd finds on the same network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from explorer.errors import NoGradient
from explorer.layers import WEIGHTED
from explorer.network import Bundles, Gradients, Network
from export.folding import fold
from export.graph import ServedNetwork, write_graph
from export.manifest import INPUT_NAME, OUTPUT_NAME, read_manifest
from imaging.files import Pixels
from tests.bundles import StubMember, write_bundle
from tests.explorer.conftest import MNIST_VERSION, ROOT, SMALL_VERSION
from tests.networks import untrained_network
from training.architectures import PixelStatistics, build_network

RELATIVE = 1e-4
"""Of the largest gradient: float32 sums in another order."""


def picture(shape: tuple[int, int, int]) -> Pixels:
    """Blurred noise: no two values alike, and no maximum that two places share."""
    generator = torch.Generator().manual_seed(5)
    noise = F.avg_pool2d(torch.rand(1, *shape, generator=generator) * 255, 3, stride=1, padding=1)
    return noise[0].byte().numpy()


def autograd(layers: Sequence[nn.Module], normalized: Tensor, unit: int) -> Gradients:
    """How one value that the last of these layers gives changes with the input, plain and guided."""
    found = []
    for guided in (False, True):
        given = normalized.detach().requires_grad_()
        values = given
        for layer in layers:
            values = _guided_relu(values) if guided and isinstance(layer, nn.ReLU) else layer(values)
        values.flatten()[unit].backward()  # type: ignore[no-untyped-call]  # torch ships none
        assert given.grad is not None
        found.append(given.grad[0].numpy())
    return Gradients(*found)


def _guided_relu(values: Tensor) -> Tensor:
    passed: Tensor = values.relu()
    passed.register_hook(lambda gradient: gradient.clamp_min(0))  # type: ignore[no-untyped-call]  # likewise
    return passed


def assert_same(found: Gradients, expected: Gradients) -> None:
    for ours, theirs in ((found.plain, expected.plain), (found.guided, expected.guided)):
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max() <= RELATIVE * np.abs(theirs).max()


def assert_layers_same(network: Network, modules: Sequence[nn.Module], normalized: Tensor, pixels: Pixels) -> None:
    """Of each layer: its largest value, its smallest, and one between."""
    shown = [at for at, module in enumerate(modules) if not isinstance(module, nn.Flatten | nn.Dropout)]
    for index, at in zip(range(1, len(network.layers)), shown, strict=True):
        values, _ = network.activations(pixels, network.layers[index])
        for unit in {int(values.argmax()), int(values.argmin()), values.size // 3}:
            expected = autograd(modules[: at + 1], normalized, unit)
            assert_same(network.gradients(pixels, index, unit), expected)


@pytest.mark.parametrize(
    ("place", "member"),
    [*((f"mnist/{MNIST_VERSION}", member) for member in (1, 2, 3)), (f"mnist-small/{SMALL_VERSION}", 1)],
)
def test_every_layer_of_each_network_that_ships(place: str, member: int) -> None:
    """Torch gets the weights out of the graph: they are named as its own."""
    manifest = read_manifest(ROOT / "models" / place)
    described = manifest.members[member - 1]
    built = build_network(described.architecture, manifest.input.shape, 10, PixelStatistics((0.0,), (1.0,)), True)
    served = ServedNetwork(fold(built))
    graph = onnx.load(ROOT / "models" / place / described.file).graph
    weights = {one.name: torch.from_numpy(numpy_helper.to_array(one).copy()) for one in graph.initializer}
    served.load_state_dict({name: weights.get(name, own) for name, own in served.state_dict().items()})
    network, pixels = (
        Bundles(ROOT / "models").network(manifest.name, manifest.version, member),
        picture((1, 28, 28)),
    )
    normalized = served.network.normalize(torch.from_numpy(pixels).float()[None])
    body = cast(nn.Sequential, served.network.body)
    assert_layers_same(network, [*body, nn.Softmax(dim=1)], normalized, pixels)


@pytest.mark.parametrize(("architecture", "shape"), [("cnn_slim", (1, 16, 16)), ("cnn_blocks", (3, 8, 8))])
def test_units_are_those_that_were_trained(tmp_path: Path, architecture: str, shape: tuple[int, int, int]) -> None:
    """Export folds steps together, but what a convolution or a dense layer gives stays what it was."""
    trained = untrained_network(architecture, shape)
    folded = fold(trained)
    write_graph(ServedNetwork(folded), shape, tmp_path / "member.onnx")
    network, pixels = Network(tmp_path / "member.onnx", shape), picture(shape)
    normalized = trained.normalize(torch.from_numpy(pixels).float()[None])
    assert_layers_same(network, [*cast(nn.Sequential, folded.body), nn.Softmax(dim=1)], normalized, pixels)
    body = list(cast(nn.Sequential, trained.body))
    learned = [at for at, module in enumerate(body) if isinstance(module, nn.Conv2d | nn.Linear)]
    weighted = [index for index, layer in enumerate(network.layers) if layer.kind in WEIGHTED]
    for index, at in zip(weighted, learned, strict=True):
        values, _ = network.activations(pixels, network.layers[index])
        unit = int(values.argmax())
        assert_same(network.gradients(pixels, index, unit), autograd(body[: at + 1], normalized, unit))


def unusual_graph(file: Path, weights: dict[str, Tensor]) -> None:
    """What ours do not have: strides with rows left over, groups, overlapping pools, ways that part and meet."""
    spread: dict[str, Any] = {"kernel_shape": [3, 3], "dilations": [2, 1], "pads": [2, 1, 2, 1]}
    nodes = [
        helper.make_node("Cast", [INPUT_NAME], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["x", "strided"], ["a"], strides=[2, 3], pads=[1, 0, 0, 2], kernel_shape=[3, 3]),
        helper.make_node("Conv", ["a", "grouped"], ["b"], group=2, **spread),
        helper.make_node("Add", ["a", "b"], ["c"]),
        helper.make_node("Sub", ["one", "c"], ["d"]),
        helper.make_node("Mul", ["d", "c"], ["e"]),
        helper.make_node("Div", ["e", "two"], ["f"]),
        helper.make_node("MaxPool", ["f"], ["g"], kernel_shape=[3, 3], strides=[1, 1]),
        helper.make_node("Flatten", ["g"], ["h"]),
        helper.make_node("MatMul", ["h", "dense"], ["i"]),
        helper.make_node("Softmax", ["i"], [OUTPUT_NAME]),
    ]
    graph = helper.make_graph(
        nodes,
        "unusual",
        [helper.make_tensor_value_info(INPUT_NAME, TensorProto.UINT8, ["batch", 1, 12, 14])],
        [helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(values.numpy(), name) for name, values in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), file)


def test_operators_that_other_networks_have(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    sizes = {"strided": (4, 1, 3, 3), "grouped": (4, 2, 3, 3), "dense": (4 * 4 * 3, 3)}
    weights = {name: torch.randn(size, generator=generator) / 20 for name, size in sizes.items()}
    unusual_graph(tmp_path / "unusual.onnx", weights | {"one": torch.tensor(1.0), "two": torch.tensor(2.0)})
    network, pixels = Network(tmp_path / "unusual.onnx", (1, 12, 14)), picture((1, 12, 14))
    given = torch.from_numpy(pixels).float()[None].requires_grad_()
    a = F.conv2d(F.pad(given, (0, 2, 1, 0)), weights["strided"], stride=(2, 3))
    c = a + F.conv2d(a, weights["grouped"], groups=2, dilation=(2, 1), padding=(2, 1))
    pooled = F.max_pool2d((1 - c) * c / 2, 3, stride=1)
    answer = (pooled.flatten(1) @ weights["dense"]).softmax(dim=1)
    for title, values in (("pooling 1", pooled), ("softmax 1", answer)):
        index = [layer.title for layer in network.layers].index(title)
        (expected,) = torch.autograd.grad(values.flatten()[1], given, retain_graph=True)
        found = network.gradients(pixels, index, 1)
        assert_same(found, Gradients(expected[0].numpy(), expected[0].numpy()))  # there is no ReLU to be guided by


def test_an_operator_without_a_known_derivative_is_named_and_what_lies_before_it_still_has_gradients(
    tmp_path: Path,
) -> None:
    nodes = [
        helper.make_node("Cast", [INPUT_NAME], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["x", "filter"], ["a"], kernel_shape=[4, 4]),
        helper.make_node("Elu", ["a"], ["b"]),
        helper.make_node("Flatten", ["b"], ["c"]),
        helper.make_node("Softmax", ["c"], [OUTPUT_NAME]),
    ]
    weights = torch.arange(32, dtype=torch.float32).reshape(2, 1, 4, 4).numpy()
    graph = helper.make_graph(
        nodes,
        "unknown",
        [helper.make_tensor_value_info(INPUT_NAME, TensorProto.UINT8, ["batch", 1, 4, 4])],
        [helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(weights, "filter")],
    )
    file = tmp_path / "unknown.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), file)
    network, pixels = Network(file, (1, 4, 4)), picture((1, 4, 4))
    assert np.array_equal(network.gradients(pixels, 1, 1).plain, weights[1])
    for index in (2, 3):
        with pytest.raises(NoGradient, match="on the way to the input lies Elu, whose derivative"):
            network.gradients(pixels, index, 0)
    with pytest.raises(NoGradient, match="This is the input itself"):
        network.gradients(pixels, 0, 0)


def test_a_network_without_convolutions(tmp_path: Path) -> None:
    """By hand: the stub's logit is ln(p) + tilt x (sum of 16 pixels) / (16 x 255)."""
    write_bundle(tmp_path, [StubMember((0.5, 0.5), tilt=(0.0, 816.0))])
    network = Bundles(tmp_path).network("stub", 1, 1)
    assert not network.gradients(picture((1, 4, 4)), 1, 0).plain.any()
    assert network.gradients(picture((1, 4, 4)), 1, 1).plain == pytest.approx(np.full((1, 4, 4), 0.2))
