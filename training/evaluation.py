"""How good a member or an ensemble is, on labelled images, with the uncertainty of the figure itself."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pydantic import BaseModel
from torch import Tensor

from training.architectures import Network
from training.dataset import Images

BATCH_IMAGES = 500
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
    """Probabilities of a member for every image: float32 (count, classes). Leaves it in evaluation mode."""
    network.eval()
    with torch.inference_mode():
        batches = [network(batch.float()).softmax(dim=1) for batch in torch.split(images.pixels, BATCH_IMAGES)]
    return torch.cat(batches)


def average(members: Sequence[Tensor]) -> Tensor:
    """Arithmetic mean of the members' probabilities, each float32 (count, classes)."""
    return torch.stack(list(members)).mean(dim=0)


def measure(probabilities: Tensor, labels: Tensor) -> Figures:
    """Compare probabilities float32 (count, classes) with labels int64 (count,)."""
    confidence, predicted = probabilities.max(dim=1)
    correct = predicted == labels
    nll = F.nll_loss(probabilities.double().clamp_min(1e-12).log(), labels)
    return Figures(
        count=len(labels),
        accuracy=correct.double().mean().item(),
        accuracy_interval=wilson_interval(int(correct.sum()), len(labels)),
        nll=nll.item(),
        ece=_expected_calibration_error(confidence, correct),
    )


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """95 % score interval of a proportion (E. B. Wilson, 1927); good near 0 and 1, where others fail."""
    share, z2 = successes / trials, Z_95**2
    centre = share + z2 / (2 * trials)
    margin = Z_95 * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2))
    low, high = (centre - margin) / (1 + z2 / trials), (centre + margin) / (1 + z2 / trials)
    return max(0.0, min(low, share)), min(1.0, max(high, share))  # rounding must not exclude 0 or 1


def fit_temperature(probabilities: Tensor, labels: Tensor) -> float:
    """The temperature T that makes `calibrate(probabilities, T)` most likely, by golden-section search.

    After C. Guo et al., "On Calibration of Modern Neural Networks" (2017), but applied to the averaged
    probabilities of an ensemble instead of one network's logits.

    Returns:
        T between 0.2 and 5; above 1 the probabilities were too sure, below 1 not sure enough.
    """

    def nll(log_temperature: float) -> float:
        return measure(calibrate(probabilities, math.exp(log_temperature)), labels).nll

    low, high, ratio = math.log(0.2), math.log(5.0), (math.sqrt(5) - 1) / 2
    while high - low > 1e-4:
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, right) if nll(left) < nll(right) else (left, high)
    return math.exp((low + high) / 2)


def calibrate(probabilities: Tensor, temperature: float) -> Tensor:
    """Raise probabilities (count, classes) to the power 1/temperature and renormalize; the order stays."""
    return (probabilities.double().clamp_min(1e-30).log() / temperature).softmax(dim=1).float()


def _expected_calibration_error(confidence: Tensor, correct: Tensor, bins: int = 15) -> float:
    index = (confidence * bins).long().clamp(max=bins - 1)
    # per bin: |number right - summed confidence|, which is the bin's gap times its count
    gaps = torch.zeros(bins, dtype=torch.float64)
    gaps.index_add_(0, index, correct.double() - confidence.double())
    return gaps.abs().sum().item() / len(correct)
