"""Under- or overfitting, in words, from the curves of the members and what they know of the training images."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from training.member import EpochMetrics
from training.summary import Summary

RISEN = 1.1
"""Held-out loss that many times its lowest counts as risen."""
STILL_FALLING = 0.95
"""Losses below that many times what they were a quarter of the epochs before count as still falling."""
LARGE_GAP = 0.01
"""So much more of the held-out images wrong than of the training images counts as known by heart, if it is no
accident of few images."""
LEAST_EPOCHS = 4
"""Fewer show no trend."""
HIGH_ERROR = 0.05
"""So much of the undistorted training images wrong counts as not learned."""


def diagnose(curves: Sequence[Sequence[EpochMetrics]], summary: Summary) -> list[str]:
    """Say what the figures show, and what to do about it.

    Args:
        curves: The epochs of each member.
        summary: Of the same run.

    Returns:
        Sentences; the first compares training and held-out images, the others judge.
    """
    train = statistics.mean(1 - member.train.accuracy for member in summary.members)
    held_out = statistics.mean(1 - member.held_out.accuracy for member in summary.members)
    comparison = (
        f"The mean member reads {train:.2%} of the training images wrong, shown without distortion, and "
        f"{held_out:.2%} of the held-out images."
    )
    said = [comparison]
    if train > HIGH_ERROR:
        said.append(
            "Underfitting: it has not learned the training images; more epochs, a larger network or another "
            "learning rate may help (--epochs, --architecture, --learning-rate)."
        )
    surely_wrong = statistics.mean(1 - member.held_out.accuracy_interval[1] for member in summary.members)
    if held_out - train > LARGE_GAP and surely_wrong > train:
        said.append(
            "Overfitting: it knows the training images better than others; more images, or a smaller network "
            "(--architecture), may help."
        )
    lowest = [min(epoch.held_out_nll for epoch in epochs) for epochs in curves]
    risen = sum(epochs[-1].held_out_nll > RISEN * low for epochs, low in zip(curves, lowest, strict=True))
    if 2 * risen > len(curves):
        best = statistics.median(min(epochs, key=lambda epoch: epoch.held_out_nll).epoch for epochs in curves)
        said.append(
            f"Overfitting: the held-out loss was lowest around epoch {best:g} of {len(curves[0])} and has risen "
            "since; fewer epochs (--epochs) or more images may help."
        )
    if len(curves[0]) < LEAST_EPOCHS:
        said.append(f"After {len(curves[0])} epochs there is no trend to judge.")
    elif 2 * sum(_still_falls(epochs) for epochs in curves) > len(curves):
        said.append("Still learning: the losses were falling to the end; more epochs (--epochs) may help.")
    if len(said) == 1:
        learns_by_heart = 2 * sum(_falls(epochs, "train_loss") for epochs in curves) > len(curves)
        said.append(
            "Neither under- nor overfitting shows yet: the training loss still falls, the held-out loss no longer "
            "does, so that more epochs would help little."
            if learns_by_heart
            else "Neither under- nor overfitting shows: the losses of most members have settled, and have not "
            "risen."
        )
    return said


def _still_falls(epochs: Sequence[EpochMetrics]) -> bool:
    return _falls(epochs, "train_loss") and _falls(epochs, "held_out_nll")


def _falls(epochs: Sequence[EpochMetrics], loss: str) -> bool:
    """Whether a loss fell clearly over the last quarter of the epochs."""
    before, last = (getattr(epoch, loss) for epoch in (epochs[-1 - len(epochs) // 4], epochs[-1]))
    return bool(last < STILL_FALLING * before)
