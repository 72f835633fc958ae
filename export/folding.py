"""A member's network with fewer steps between its convolutions.

The networks pool before ReLU and normalize after it. A normalization of its own costs onnxruntime a change of
memory layout and back, and between int8 layers a conversion to float32 and back. Two changes leave the function as
it is:

- ReLU comes before max pooling: it becomes part of the convolution. The largest of several values, cut at 0, is
  the largest of the values cut at 0.
- Batch normalization becomes part of the layer after it. In evaluation it is y = s x + t for each channel, with
  s = gamma / sqrt(variance + epsilon) and t = beta - s mean, so the layer's W y + b is (W s) x + (b + W t).
  A layer that pads does so with zeros in the place of y, which no x gives: it keeps its normalization.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from training.architectures import Network

Norm = nn.BatchNorm1d | nn.BatchNorm2d
Weighted = nn.Conv2d | nn.Linear


def fold(network: Network) -> Network:
    """A copy of a trained network that computes the same in fewer steps; in evaluation mode."""
    folded = copy.deepcopy(network).eval()
    layers = put_relu_first(list(folded.body.children()))
    folded.body = nn.Sequential(*fold_batchnorms(layers))
    return folded


def put_relu_first(layers: Sequence[nn.Module]) -> list[nn.Module]:
    """The same layers with each ReLU that follows a max pool before it."""
    swapped = list(layers)
    for index, (layer, following) in enumerate(pairwise(layers)):
        if isinstance(layer, nn.MaxPool2d) and isinstance(following, nn.ReLU):
            swapped[index : index + 2] = following, layer
    return swapped


def fold_batchnorms(layers: Sequence[nn.Module]) -> list[nn.Module]:
    """The layers without the normalizations that the next one could take in; its weights are changed in place."""
    kept: list[nn.Module] = []
    for index, layer in enumerate(layers):
        following = _next_layer(layers[index + 1 :])
        if isinstance(layer, Norm) and _can_take(following):
            _take(cast(Weighted, following), layer)
        else:
            kept.append(layer)
    return kept


def _next_layer(layers: Sequence[nn.Module]) -> nn.Module | None:
    """The first that does more than pass values on."""
    return next((layer for layer in layers if not isinstance(layer, nn.Flatten | nn.Dropout)), None)


def _can_take(layer: nn.Module | None) -> bool:
    return isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.padding == (0, 0))


def _take(layer: Weighted, norm: Norm) -> None:
    mean, variance = cast(Tensor, norm.running_mean).double(), cast(Tensor, norm.running_var).double()
    scale = norm.weight.double() / (variance + norm.eps).sqrt()
    shift = norm.bias.double() - scale * mean
    with torch.no_grad():
        # (outputs, channels, values): a flattened image has its channels one after the other
        weight = layer.weight.double().reshape(len(layer.weight), len(scale), -1)
        cast(Tensor, layer.bias).add_((weight * shift.view(1, -1, 1)).sum(dim=(1, 2)))
        layer.weight.copy_((weight * scale.view(1, -1, 1)).view_as(layer.weight))
