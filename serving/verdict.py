"""From the members' probabilities to the ensemble's verdict.

With p_m the probabilities of member m of the M that ran, per image:

    average             p = 1/M sum_m p_m
    entropy             H(p) = -sum_c p(c) ln p(c)
    mutual information  I = H(p) - 1/M sum_m H(p_m)
    agreement           share of members with argmax p_m = argmax p
    probabilities       p^(1/T) / sum_c p(c)^(1/T), T the fitted temperature

Entropy and mutual information split the predictive uncertainty as in B. Lakshminarayanan et al., "Simple and
Scalable Predictive Uncertainty Estimation using Deep Ensembles" (2017), and N. Houlsby et al. (2011).

Exact early stop: a member adds at most 1 to what the first class leads the second by. Once the summed lead exceeds
the number of members still to come, they cannot change the class.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Counts = npt.NDArray[np.int64]
TINY = 1e-30
"""Stands for probability zero inside a logarithm."""
ROUNDING = 1e-4
"""A lead must exceed the members still to come by this: float32 softmax may be a little above 1."""


@dataclass(frozen=True)
class Verdict:
    """What an ensemble says of a batch of images.

    Attributes:
        probabilities: float32 (images, classes), calibrated; each row sums to 1.
        ranking: int64 (images, classes), class indices from most to least probable.
        entropy: float32 (images,), of the plain average, in nats.
        mutual_information: float32 (images,), in nats, at least 0.
        agreement: float32 (images,), share of the members that ran.
        members: float32 (members, images, classes), each member's own probabilities; zeros where it did not run.
        members_run: int64 (images,), how many ran: the first so many.
    """

    probabilities: Floats
    ranking: Counts
    entropy: Floats
    mutual_information: Floats
    agreement: Floats
    members: Floats
    members_run: Counts

    def __getitem__(self, images: slice) -> Verdict:
        """The verdict on some of the images; the arrays are views."""
        return Verdict(
            self.probabilities[images],
            self.ranking[images],
            self.entropy[images],
            self.mutual_information[images],
            self.agreement[images],
            self.members[:, images],
            self.members_run[images],
        )


def judge(members: Floats, members_run: Counts, temperature: float) -> Verdict:
    """Average what the members say into a verdict.

    Args:
        members: float32 (members, images, classes), each member's probabilities, zeros where it did not run.
        members_run: int64 (images,), how many members ran on each image, 1 or more.
        temperature: Applied to the average.
    """
    exact = members.astype(np.float64)
    average = exact.sum(axis=0) / members_run[:, np.newaxis]  # (images, classes)
    ranking = np.argsort(-average, axis=1, kind="stable")
    entropy = _entropy(average)
    ran = np.arange(len(members))[:, np.newaxis] < members_run  # (members, images)
    agreeing = (exact.argmax(axis=2) == ranking[:, 0]) & ran
    return Verdict(
        probabilities=_calibrate(average, temperature).astype(np.float32),
        ranking=ranking,
        entropy=entropy.astype(np.float32),
        # Members that did not run are all zeros, whose entropy is 0.
        mutual_information=np.maximum(entropy - _entropy(exact).sum(axis=0) / members_run, 0).astype(np.float32),
        agreement=(agreeing.sum(axis=0) / members_run).astype(np.float32),
        members=members,
        members_run=members_run,
    )


def are_settled(sums: npt.NDArray[np.float64], members_left: int) -> npt.NDArray[np.bool_]:
    """Whether the members still to come can no longer change an image's class.

    Args:
        sums: float64 (images, classes), the probabilities of the members so far, added up.
        members_left: How many are to come.

    Returns:
        bool (images,).
    """
    highest = np.partition(sums, -2, axis=1)[:, -2:]  # (images, 2): the second, the first
    settled: npt.NDArray[np.bool_] = highest[:, 1] - highest[:, 0] > members_left + ROUNDING
    return settled


def fewest_to_settle(members: int) -> int:
    """How many of so many members must have run before any image can be settled: more than half of them."""
    return members // 2 + 1


def _entropy(probabilities: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    surprise: npt.NDArray[np.float64] = -np.log(np.maximum(probabilities, TINY))
    entropy: npt.NDArray[np.float64] = (probabilities * surprise).sum(axis=-1)
    return entropy


def _calibrate(average: npt.NDArray[np.float64], temperature: float) -> npt.NDArray[np.float64]:
    scaled = np.log(np.maximum(average, TINY)) / temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    calibrated: npt.NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return calibrated
