"""Networks that have learned nothing, but whose batch normalization matters."""

from __future__ import annotations

import torch
from torch import nn

from training.architectures import Network, PixelStatistics, Shape, build_network


def untrained_network(architecture: str = "cnn_slim", shape: Shape = (1, 28, 28), seed: int = 0) -> Network:
    """A network in evaluation mode; its batch normalizations shift, scale and turn signs."""
    torch.manual_seed(seed)
    statistics = PixelStatistics((33.0,) * shape[0], (78.0,) * shape[0])
    network = build_network(architecture, shape, 10, statistics, strokes=shape[0] == 1)
    network.train()(torch.rand(16, *shape) * 255)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(layer.weight)
            nn.init.normal_(layer.bias)
    return network.eval()
