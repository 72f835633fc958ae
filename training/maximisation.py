"""Activation maximisation: the input that excites a unit most, found by following its gradient.

After J. Yosinski et al., "Understanding Neural Networks Through Deep Visualization" (2015), whose decay and blur
keep the picture from turning into noise.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from training.architectures import Network, Shape
from training.units import UnitLayer, answers_of, body_of

STEPS = 64
STEP_SIZE = 120.0
"""Of the pixel that is pushed most, in 0..255, at the first step; it falls to a tenth."""
DECAY = 0.01
BLUR_EVERY = 4
BLUR_SIGMA = 0.7
START_NOISE = 16.0
SEED = 1
BATCH_UNITS = 64
REGULARISATION = (
    f"Gradient ascent on pixels from 0 to 255, {STEPS} steps from faint noise on a plain ground: on the value in "
    "the middle of a convolution's map, or on the output of a dense layer. "
    f"After each step the picture is drawn {100 * DECAY:.0f} % back to the ground and cut to 0 to 255; "
    f"after every {BLUR_EVERY}th it is blurred (Gaussian, sigma {BLUR_SIGMA} pixels). "
    "The picture is what the first layer gets, before mean and spread are taken out."
)


def maximise(network: Network, layer: UnitLayer, shape: Shape) -> tuple[Tensor, Tensor]:
    """The inputs that excite the units of a layer.

    Args:
        network: In evaluation mode.
        layer: One of its own.
        shape: Channels, height and width of its images.

    Returns:
        uint8 (units, channels, height, width) and each unit's answer to its own, float32 (units,).
    """
    network.requires_grad_(False)
    groups = torch.split(torch.arange(layer.units), BATCH_UNITS)
    batches = [_climb(network, layer, units, shape) for units in groups]
    pictures = torch.cat(batches)
    answers = [
        answers_of(_answer(network, layer, batch.float()))[:, units].diagonal()
        for batch, units in zip(batches, groups, strict=True)
    ]
    return pictures, torch.cat(answers)


def _climb(network: Network, layer: UnitLayer, units: Tensor, shape: Shape) -> Tensor:
    """A picture for each of some units, all at once: uint8 (units, channels, height, width)."""
    generator = torch.Generator().manual_seed(SEED)
    ground = torch.zeros_like(network.normalize.mean) if network.normalize.strokes else network.normalize.mean
    # the same noise for all, so that what differs is the units'
    pictures = (ground + START_NOISE * torch.rand(shape, generator=generator)).repeat(len(units), 1, 1, 1)
    for step in range(STEPS):
        pictures.requires_grad_()
        values = _answer(network, layer, pictures)
        middle = values[:, :, values.shape[2] // 2, values.shape[3] // 2] if values.ndim > 2 else values
        (gradient,) = torch.autograd.grad(middle[:, units].diagonal().sum(), pictures)
        size = STEP_SIZE * (1 - 0.9 * step / (STEPS - 1))
        with torch.no_grad():
            strongest = gradient.abs().amax(dim=(1, 2, 3), keepdim=True).clamp_min(1e-12)
            pictures = pictures + size * gradient / strongest
            pictures = (ground + (1 - DECAY) * (pictures - ground)).clamp(0, 255)
            if step % BLUR_EVERY == BLUR_EVERY - 1 and step < STEPS - 1:
                pictures = _blur(pictures)
    return pictures.round().to(torch.uint8)


def _answer(network: Network, layer: UnitLayer, pictures: Tensor) -> Tensor:
    """What the layer gives: float32 (pictures, channels, height, width), 0..255, past the lifting of strokes."""
    values = (pictures - network.normalize.mean) / network.normalize.std
    for one in body_of(network)[: layer.at + 1]:
        values = one(values)
    return values


def _blur(pictures: Tensor) -> Tensor:
    """Gaussian, over 3x3 pixels, the edge repeated outwards."""
    side = math.exp(-1 / (2 * BLUR_SIGMA**2))
    line = torch.tensor([side, 1.0, side]) / (1 + 2 * side)
    kernel = torch.outer(line, line).expand(pictures.shape[1], 1, 3, 3)
    return F.conv2d(F.pad(pictures, (1, 1, 1, 1), mode="replicate"), kernel, groups=pictures.shape[1])
