"""What keeps one client from taking everything: requests a second, bytes a request."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from starlette.requests import Request

from explorer.errors import RequestTooLarge, TooManyRequests

MOST_CLIENTS = 10_000
"""Clients that are remembered; the one heard longest ago is forgotten."""


@dataclass
class _Allowance:
    requests: float
    at_seconds: float


class RequestLimit:
    """A token bucket a client: so many requests a second on average, twice as many at once."""

    def __init__(self, requests_per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds that never go back."""
        self._rate = requests_per_second
        self._burst = max(1.0, 2 * requests_per_second)
        self._clock = clock
        self._allowances: OrderedDict[str, _Allowance] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, client: str) -> None:
        """Count one request of a client.

        Raises:
            TooManyRequests: It has none left.
        """
        now = self._clock()
        with self._lock:
            allowance = self._allowances.setdefault(client, _Allowance(self._burst, now))
            self._allowances.move_to_end(client)
            if len(self._allowances) > MOST_CLIENTS:
                self._allowances.popitem(last=False)
            earned = (now - allowance.at_seconds) * self._rate
            allowance.requests = min(self._burst, allowance.requests + earned)
            allowance.at_seconds = now
            if allowance.requests < 1:
                raise TooManyRequests(f"More than {self._rate:g} requests a second came from here; wait a moment.")
            allowance.requests -= 1


async def read_body(request: Request, most_bytes: int) -> bytes:
    """A request's body, read no further than allowed.

    Raises:
        RequestTooLarge: It is longer.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most_bytes:
            raise RequestTooLarge(f"This is larger than the limit of {most_bytes:,} bytes.")
    return bytes(body)
