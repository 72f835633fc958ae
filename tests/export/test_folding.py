"""A folded network computes what it did, in fewer steps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from export.folding import fold, fold_batchnorms, put_relu_first
from tests.networks import untrained_network
from training.architectures import ARCHITECTURES

NORMS = {"cnn_bn": 0, "cnn_bn_dropout": 0, "cnn_slim": 0, "cnn_small": 0, "cnn_7x7": 1, "cnn_padded": 3}
"""Normalizations that must stay, since the convolution after them pads."""


def pixels(count: int = 4) -> Tensor:
    """Noise: float64 (count, 1, 28, 28) in 0..255."""
    return torch.rand(count, 1, 28, 28, generator=torch.Generator().manual_seed(1)).double() * 255


def batchnorm(mean: float, variance: float, gamma: float, beta: float) -> nn.BatchNorm1d:
    """One channel, y = gamma * (x - mean) / sqrt(variance) + beta."""
    norm = nn.BatchNorm1d(1, eps=0.0).double().eval()
    for tensor, value in (
        (norm.running_mean, mean),
        (norm.running_var, variance),
        (norm.weight, gamma),
        (norm.bias, beta),
    ):
        assert tensor is not None
        nn.init.constant_(tensor, value)
    return norm


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_computes_the_same(architecture: str) -> None:
    """In float64, where nothing but rounding of the last digits can differ."""
    network = untrained_network(architecture).double()
    with torch.inference_mode():
        expected, found = network(pixels()), fold(network)(pixels())
    assert (found - expected).abs().max() <= 1e-10 * expected.abs().max()


@pytest.mark.parametrize(("architecture", "stay"), NORMS.items())
def test_only_normalizations_before_a_padded_convolution_stay(architecture: str, stay: int) -> None:
    folded = fold(untrained_network(architecture))
    assert sum(isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) for layer in folded.modules()) == stay


def test_the_network_itself_stays_as_it_is() -> None:
    network = untrained_network()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    fold(network)
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in network.modules()) == 4
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_a_dense_layer_takes_in_a_normalization() -> None:
    """The normalization is 2 (x - 3) / 2 + 1 = x - 2; the layer makes 5 (x - 2) + 7 = 5 x - 3 of it."""
    dense = nn.Linear(1, 1).double()
    nn.init.constant_(dense.weight, 5)
    nn.init.constant_(dense.bias, 7)
    (found,) = fold_batchnorms([batchnorm(mean=3, variance=4, gamma=2, beta=1), dense])
    assert found is dense
    assert dense.weight.item() == pytest.approx(5)
    assert dense.bias.item() == pytest.approx(-3)


def test_a_normalization_that_something_else_follows_stays() -> None:
    layers = [batchnorm(mean=3, variance=4, gamma=2, beta=1), nn.Softmax(dim=1), nn.Linear(1, 1)]
    assert fold_batchnorms(layers) == layers
    assert fold_batchnorms(layers[:1]) == layers[:1]


def test_relu_comes_before_the_pool() -> None:
    convolution, pool, relu = nn.Conv2d(1, 1, 3), nn.MaxPool2d(2), nn.ReLU()
    assert put_relu_first([convolution, pool, relu, relu]) == [convolution, relu, pool, relu]
