"""The moving average of a network's weights while it learns: what becomes the member."""

from __future__ import annotations

import copy
from itertools import chain

import torch
from torch import Tensor

from training.architectures import Network


class MovingAverage:
    """A network whose weights follow another's, step by step.

    Attributes:
        network: The one that follows.
        steps: How many it has followed. Counted here and not on the device, which would have to be asked.
    """

    def __init__(self, followed: Network, decay: float) -> None:
        self.network = copy.deepcopy(followed)
        self.steps = 0
        self._decay = decay
        mine, theirs = (list(chain(one.parameters(), one.buffers())) for one in (self.network, followed))
        pairs = [(own, other.detach()) for own, other in zip(mine, theirs, strict=True)]
        self._weights = [(own.detach(), other) for own, other in pairs if own.is_floating_point()]
        self._counts = [(own, other) for own, other in pairs if not own.is_floating_point()]

    def follow(self) -> None:
        """Move, in place, towards the weights as they are now; whole numbers, such as counts, are taken over."""
        own, other = (list(side) for side in zip(*self._weights, strict=True))
        torch._foreach_lerp_(own, other, 1 - kept_share(self._decay, self.steps))
        for count, counted in self._counts:
            count.copy_(counted)
        self.steps += 1

    def state(self) -> dict[str, Tensor]:
        """All that the next step depends on."""
        weights = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        return {"steps": torch.tensor(self.steps)} | weights

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take up what `state` gave.

        Raises:
            KeyError: It is no such state.
            RuntimeError: It is that of another network.
        """
        self.steps = int(state["steps"])
        self.network.load_state_dict(
            {name.removeprefix("network."): value for name, value in state.items() if name.startswith("network.")}
        )


def kept_share(decay: float, steps: int) -> float:
    """How much of itself an average keeps at its next step, when it has followed so many.

    At first it spans a tenth of the steps so far, later what the decay has it span. Without that, a short training
    would average the random weights that it began with.
    """
    return min(decay, (1 + steps) / (10 + steps)) if steps else 0.0
