"""The moving average: it begins with the weights that it meets first, and follows by ever smaller steps."""

from __future__ import annotations

import pytest
import torch

from tests.networks import untrained_network
from training.averaging import MovingAverage, kept_share


@pytest.mark.parametrize(("steps", "kept"), [(0, 0.0), (1, 2 / 11), (8, 0.5), (10_000, 0.99)])
def test_the_average_forgets_its_start(steps: int, kept: float) -> None:
    """After step n it keeps at most (1 + n) / (10 + n) of itself, and after none nothing."""
    assert kept_share(0.99, steps) == pytest.approx(kept)


def test_no_decay_keeps_the_last_weights() -> None:
    assert kept_share(0.0, 5) == 0.0


def test_it_follows_step_by_step() -> None:
    """From 3, the first that it sees, to 3 * 2/11 + 14 * 9/11 when the weight becomes 14."""
    network = untrained_network("linear")
    average = MovingAverage(network, 0.99)
    followed, following = network.get_parameter("body.1.bias"), average.network.get_parameter("body.1.bias")
    for value, expected in ((3.0, 3.0), (14.0, 12.0)):
        torch.nn.init.constant_(followed, value)
        average.follow()
        assert following.detach().tolist() == pytest.approx([expected] * 10)


def test_counts_are_copied_not_averaged() -> None:
    """How many batches a normalization has seen."""
    network = untrained_network("cnn_bn")
    average = MovingAverage(network, 0.99)
    for count in (3, 7):
        network.get_buffer("body.2.num_batches_tracked").fill_(count)
        average.follow()
        assert average.network.get_buffer("body.2.num_batches_tracked").item() == count


def test_a_state_is_taken_up_where_it_was_left() -> None:
    network = untrained_network("linear")
    one, other = MovingAverage(network, 0.99), MovingAverage(network, 0.99)
    for _ in range(3):
        one.follow()
    other.load_state(one.state())
    torch.nn.init.constant_(network.get_parameter("body.1.bias"), 5.0)
    for average in (one, other):
        average.follow()
    assert all(torch.equal(value, other.state()[name]) for name, value in one.state().items())
