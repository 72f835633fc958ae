"""One client cannot take everything."""

from __future__ import annotations

import pytest

from explorer.errors import TooManyRequests
from explorer.limits import RequestLimit


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def taken(limit: RequestLimit, client: str, most: int = 100) -> int:
    """How many requests a client may make at once."""
    for count in range(most):
        try:
            limit.take(client)
        except TooManyRequests:
            return count
    return most


def test_twice_the_rate_may_come_at_once_and_then_the_rate() -> None:
    clock = Clock()
    limit = RequestLimit(6, clock)
    assert taken(limit, "a") == 12
    clock.seconds += 0.5
    assert taken(limit, "a") == 3
    clock.seconds += 1000
    assert taken(limit, "a") == 12


def test_clients_have_their_own_allowances() -> None:
    limit = RequestLimit(1, Clock())
    assert taken(limit, "a") == 2
    assert taken(limit, "b") == 2


def test_a_refusal_says_the_limit() -> None:
    limit = RequestLimit(0.1, Clock())
    limit.take("a")
    with pytest.raises(TooManyRequests, match=r"More than 0\.1 requests a second came from here"):
        limit.take("a")


def test_clients_of_long_ago_are_forgotten() -> None:
    """Memory is bounded: who was pushed out begins anew."""
    limit = RequestLimit(1, Clock())
    assert taken(limit, "a") == 2
    for number in range(10_000):
        limit.take(str(number))
    assert taken(limit, "a") == 2
