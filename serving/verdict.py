"""From the members' probabilities to the ensemble's verdict.

With p_m the probabilities of member m of M, per image:

    average             p = 1/M sum_m p_m
    entropy             H(p) = -sum_c p(c) ln p(c)
    mutual information  I = H(p) - 1/M sum_m H(p_m)
    agreement           share of members with argmax p_m = argmax p
    probabilities       p^(1/T) / sum_c p(c)^(1/T), T the fitted temperature

Entropy and mutual information split the predictive uncertainty as in B. Lakshminarayanan et al., "Simple and
Scalable Predictive Uncertainty Estimation using Deep Ensembles" (2017), and N. Houlsby et al. (2011).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
TINY = 1e-30
"""Stands for probability zero inside a logarithm."""


@dataclass(frozen=True)
class Verdict:
    """What an ensemble says of a batch of images.

    Attributes:
        probabilities: float32 (images, classes), calibrated; each row sums to 1.
        ranking: int64 (images, classes), class indices from most to least probable.
        entropy: float32 (images,), of the plain average, in nats.
        mutual_information: float32 (images,), in nats, at least 0.
        agreement: float32 (images,), share of the members.
        members: float32 (members, images, classes), each member's own probabilities.
    """

    probabilities: Floats
    ranking: npt.NDArray[np.int64]
    entropy: Floats
    mutual_information: Floats
    agreement: Floats
    members: Floats


def judge(members: Floats, temperature: float) -> Verdict:
    """Average the members' probabilities, float32 (members, images, classes), into a verdict."""
    exact = members.astype(np.float64)
    average = exact.mean(axis=0)  # (images, classes)
    ranking = np.argsort(-average, axis=1, kind="stable")
    entropy = _entropy(average)
    own_top = exact.argmax(axis=2)  # (members, images)
    return Verdict(
        probabilities=_calibrate(average, temperature).astype(np.float32),
        ranking=ranking,
        entropy=entropy.astype(np.float32),
        mutual_information=np.maximum(entropy - _entropy(exact).mean(axis=0), 0).astype(np.float32),
        agreement=(own_top == ranking[:, 0]).mean(axis=0).astype(np.float32),
        members=members,
    )


def _entropy(probabilities: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    surprise: npt.NDArray[np.float64] = -np.log(np.maximum(probabilities, TINY))
    entropy: npt.NDArray[np.float64] = (probabilities * surprise).sum(axis=-1)
    return entropy


def _calibrate(average: npt.NDArray[np.float64], temperature: float) -> npt.NDArray[np.float64]:
    scaled = np.log(np.maximum(average, TINY)) / temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    calibrated: npt.NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return calibrated
