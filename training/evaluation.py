"""How good a member or an ensemble is, on labelled images, with the uncertainty of the figure itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import BaseModel
from torch import Tensor

from training.architectures import Network
from training.dataset import Images

MOST_IMAGES_AT_ONCE = 500
MOST_PIXELS_AT_ONCE = 500 * 28 * 28
"""Of the images that a network is shown: each layer keeps some numbers for every pixel."""
CONFIDENCE_BINS = 15
PRIOR_DEVIATION = 0.5
"""Of the logarithm of a temperature, before any image was seen."""
Z_95 = 1.959964
"""Two-sided 95 % quantile of the standard normal distribution."""


class Figures(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """How a set of predicted probabilities compares with the labels."""

    count: int
    """Images looked at."""
    accuracy: float
    """Share of images whose top class is the label."""
    accuracy_interval: tuple[float, float]
    """95 % Wilson score interval of the accuracy."""
    nll: float
    """Mean negative log-likelihood of the label, in nats."""
    ece: float
    """Expected calibration error of the top class over 15 equally wide bins."""


def predict(network: Network, images: Images) -> Tensor:
    """Probabilities of a member for every image, on whatever device both lie. Leaves it in evaluation mode.

    Returns:
        float32 (count, classes), on the processor.
    """
    network.eval()
    with torch.inference_mode():
        batches = [
            network(batch.float()).softmax(dim=1)
            for batch in torch.split(images.pixels, images_at_once(images.pixels.shape))
        ]
    return torch.cat(batches).cpu()


def images_at_once(shape: Sequence[int]) -> int:
    """How many images of a shape, whose last two numbers are height and width, a network is shown at once."""
    height, width = shape[-2:]
    return min(MOST_IMAGES_AT_ONCE, max(1, MOST_PIXELS_AT_ONCE // (height * width)))


def average(members: Tensor) -> Tensor:
    """Arithmetic mean of the members' probabilities: float32 (members, count, classes) to (count, classes)."""
    return members.mean(dim=0)


def agreement(members: Tensor) -> Tensor:
    """Share of members whose top class is their average's: (members, count, classes) to float64 (count,)."""
    return (members.argmax(dim=2) == members.mean(dim=0).argmax(dim=1)).double().mean(dim=0)


def measure(probabilities: Tensor, labels: Tensor) -> Figures:
    """Compare probabilities float32 (count, classes) with labels int64 (count,)."""
    correct = probabilities.argmax(dim=1) == labels
    return Figures(
        count=len(labels),
        accuracy=correct.double().mean().item(),
        accuracy_interval=wilson_interval(int(correct.sum()), len(labels)),
        nll=_mean_nll(probabilities, labels),
        ece=reliability(probabilities, labels).expected_calibration_error,
    )


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """95 % score interval of a proportion (E. B. Wilson, 1927); good near 0 and 1, where others fail."""
    share, z2 = successes / trials, Z_95**2
    centre = share + z2 / (2 * trials)
    margin = Z_95 * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2))
    low, high = (centre - margin) / (1 + z2 / trials), (centre + margin) / (1 + z2 / trials)
    return max(0.0, min(low, share)), min(1.0, max(high, share))  # rounding must not exclude 0 or 1


def fit_temperature(probabilities: Tensor, labels: Tensor) -> float:
    """The most probable temperature T for `calibrate(probabilities, T)`, by golden-section search.

    After C. Guo et al., "On Calibration of Modern Neural Networks" (2017), but applied to the averaged
    probabilities of an ensemble instead of one network's logits, and with a prior around T = 1: few images, or
    images of which none is read wrong, would make any T the better the smaller it is.

    Returns:
        T between 0.2 and 5; above 1 the probabilities were too sure, below 1 not sure enough.
    """

    def loss(log_temperature: float) -> float:
        calibrated = calibrate(probabilities, math.exp(log_temperature))
        return len(labels) * _mean_nll(calibrated, labels) + (log_temperature / PRIOR_DEVIATION) ** 2 / 2

    low, high, ratio = math.log(0.2), math.log(5.0), (math.sqrt(5) - 1) / 2
    while high - low > 1e-4:
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, right) if loss(left) < loss(right) else (left, high)
    return math.exp((low + high) / 2)


def _mean_nll(probabilities: Tensor, labels: Tensor) -> float:
    return F.nll_loss(probabilities.double().clamp_min(1e-12).log(), labels).item()


def calibrate(probabilities: Tensor, temperature: float) -> Tensor:
    """Raise probabilities (count, classes) to the power 1/temperature and renormalize; the order stays."""
    return (probabilities.double().clamp_min(1e-30).log() / temperature).softmax(dim=1).float()


@dataclass(frozen=True)
class Reliability:
    """What the confidence in the top class was worth, over equally wide bins of it; float64 (bins,) each.

    Attributes:
        count: Images in each bin.
        confidence: Mean confidence of those; NaN in an empty bin.
        accuracy: Share of those that were right; NaN in an empty bin.
    """

    count: NDArray[np.float64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]

    @property
    def expected_calibration_error(self) -> float:
        """Mean over the images of how far their bin's confidence lies from its accuracy."""
        filled = self.count > 0
        gaps = np.abs(self.confidence - self.accuracy)[filled]
        return float((gaps * self.count[filled]).sum() / self.count.sum())


def reliability(probabilities: Tensor, labels: Tensor) -> Reliability:
    """Sort probabilities (count, classes) into bins of their largest, and compare with labels (count,)."""
    confidence, predicted = probabilities.double().max(dim=1)
    index = (confidence * CONFIDENCE_BINS).long().clamp(max=CONFIDENCE_BINS - 1)
    count, summed, right = (
        index.bincount(weights, minlength=CONFIDENCE_BINS).double()
        for weights in (None, confidence, (predicted == labels).double())
    )
    return Reliability(count.numpy(), (summed / count).numpy(), (right / count).numpy())
