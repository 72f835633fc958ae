"""What is long is done aside, on another thread than the one that answers calls."""

from __future__ import annotations

import asyncio
import threading

import pytest

from serving.loop import LONG_BYTES, aside, aside_if_long
from tests.coroutines import run


@pytest.mark.parametrize(("size_bytes", "is_aside"), [(0, False), (LONG_BYTES - 1, False), (LONG_BYTES, True)])
def test_size_decides_where_work_is_done(size_bytes: int, is_aside: bool) -> None:
    async def compare() -> bool:
        return await aside_if_long(size_bytes, threading.get_ident) != threading.get_ident()

    assert run(compare()) == is_aside


def test_the_loop_goes_on_meanwhile() -> None:
    async def set_while_it_is_waited_for() -> bool:
        event = threading.Event()
        waiting = asyncio.create_task(aside(event.wait, 60))
        await asyncio.sleep(0)
        event.set()
        return await waiting

    assert run(set_while_it_is_waited_for())


@pytest.mark.parametrize("size_bytes", [0, LONG_BYTES])
def test_an_error_is_told_where_the_work_was_asked_for(size_bytes: int) -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        run(aside_if_long(size_bytes, int, "x"))
