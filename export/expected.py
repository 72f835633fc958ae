"""What an ensemble says of the held-out images: the measure of drift in use."""

from __future__ import annotations

import torch
from torch import Tensor

from export.manifest import Expected
from training.evaluation import agreement, average


def measure_expected(members: Tensor) -> Expected:
    """Class shares, entropy and agreement, as the server counts them.

    Args:
        members: float32 (members, images, classes), each member's probabilities of the held-out images.
    """
    plain = average(members.double())  # (images, classes)
    images, classes = plain.shape
    tops = torch.bincount(plain.argmax(dim=1), minlength=classes)
    return Expected(
        images=images,
        class_shares=tuple((tops.double() / images).tolist()),
        entropy=max(0.0, torch.special.entr(plain).sum(dim=1).mean().item()),  # rounding may leave it below 0
        agreement=agreement(members).mean().item(),
    )
