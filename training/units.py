"""The units of a network, and the training images that each answers most strongly to.

A unit is a channel of a convolution, wherever in the picture it looks, or one output of a dense layer; those of
the last are the classes. What counts is the layer's own output, before pooling, activation and normalization: of a
channel, its largest value anywhere. Export folds steps together, but leaves these values as they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self, cast

import torch
from torch import Tensor, nn

from training.architectures import Network
from training.evaluation import images_at_once

STRONGEST_IMAGES = 9


@dataclass(frozen=True)
class UnitLayer:
    """A layer whose units are looked at.

    Attributes:
        title: Such as "convolution 2": its kind, and the how manieth of that kind it is.
        at: Its place in the network's body, from 0.
        units: How many it has.
    """

    title: str
    at: int
    units: int


@dataclass
class Strongest:
    """For each unit, the images with the strongest answers so far, the strongest first.

    Attributes:
        values: float32 (units, images).
        images: int64 (units, images), where among the images they are.
    """

    values: Tensor
    images: Tensor

    @classmethod
    def none(cls, units: int) -> Self:
        """Before any image was seen."""
        return cls(torch.empty(units, 0), torch.empty(units, 0, dtype=torch.int64))

    def take(self, answers: Tensor, first: int) -> None:
        """Let the next images in: float32 (images, units), the first of which is number `first`."""
        numbers = torch.arange(first, first + len(answers)).expand(answers.shape[1], -1)
        values = torch.cat([self.values, answers.T], dim=1)
        images = torch.cat([self.images, numbers], dim=1)
        order = values.argsort(dim=1, descending=True, stable=True)[:, :STRONGEST_IMAGES]
        self.values, self.images = values.gather(1, order), images.gather(1, order)


def find_unit_layers(network: Network, most_dense_units: int) -> list[UnitLayer]:
    """The convolutions of a network, its dense layers of no more than so many units, and its classes."""
    counts = {"convolution": 0, "dense": 0}
    found = []
    layers = body_of(network)
    for at, layer in enumerate(layers):
        if isinstance(layer, nn.Conv2d | nn.Linear):
            kind = "convolution" if isinstance(layer, nn.Conv2d) else "dense"
            counts[kind] += 1
            units = len(layer.weight)
            if kind == "convolution" or units <= most_dense_units or at == len(layers) - 1:
                found.append(UnitLayer(f"{kind} {counts[kind]}", at, units))
    return found


def find_strongest(
    network: Network, layers: list[UnitLayer], pixels: Tensor, seen: Callable[[int], None]
) -> list[Strongest]:
    """Pass once over images and keep, for each unit, those that it answers most strongly to.

    Args:
        network: In evaluation mode.
        layers: Those to look at.
        pixels: uint8 (images, channels, height, width).
        seen: Called with the number of images in each batch once it is done.
    """
    found = [Strongest.none(layer.units) for layer in layers]
    body = body_of(network)[: layers[-1].at + 1]
    wanted = {layer.at: strongest for layer, strongest in zip(layers, found, strict=True)}
    with torch.inference_mode():
        size = images_at_once(pixels.shape)
        for number, batch in enumerate(torch.split(pixels, size)):
            values = network.normalize(batch.float())
            for at, layer in enumerate(body):
                values = layer(values)
                if at in wanted:
                    wanted[at].take(answers_of(values), number * size)
            seen(len(batch))
    return found


def answers_of(values: Tensor) -> Tensor:
    """A layer's output as one number a unit: (images, units, ...) to (images, units)."""
    return values.flatten(2).amax(dim=2) if values.ndim > 2 else values


def body_of(network: Network) -> list[nn.Module]:
    """The layers after normalization, in order."""
    return list(cast(nn.Sequential, network.body))


def first_weights_sha256(network: Network) -> str:
    """SHA-256 of the first layer's weights, float32 in C order: which an export leaves as they are.

    It tells whether a member of a bundle is this one.
    """
    first = next(layer for layer in body_of(network) if isinstance(layer, nn.Conv2d | nn.Linear))
    return hashlib.sha256(first.weight.detach().numpy().astype("<f4").tobytes()).hexdigest()
