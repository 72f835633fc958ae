"""What is long is done aside, on another thread than the one that answers calls."""

from __future__ import annotations

import asyncio
import threading
import weakref

import pytest

from serving.loop import ARRAYS, LONG_BYTES, aside, aside_if_long, files, on_a_thread_of_its_own
from tests.coroutines import run


class Image:
    """Stands for one."""


@pytest.mark.parametrize(("size_bytes", "is_aside"), [(0, False), (LONG_BYTES - 1, False), (LONG_BYTES, True)])
def test_size_decides_where_work_is_done(size_bytes: int, is_aside: bool) -> None:
    async def compare() -> bool:
        return await aside_if_long(size_bytes, threading.get_ident) != threading.get_ident()

    assert run(compare()) == is_aside


def test_the_loop_goes_on_meanwhile() -> None:
    async def set_while_it_is_waited_for() -> bool:
        event = threading.Event()
        waiting = asyncio.create_task(aside(ARRAYS, event.wait, 60))
        await asyncio.sleep(0)
        event.set()
        return await waiting

    assert run(set_while_it_is_waited_for())


def test_pictures_hold_up_nothing_else() -> None:
    async def decode_while_all_are_busy() -> int:
        event = threading.Event()
        pictures = [asyncio.create_task(aside(files(2), event.wait, 60)) for _ in range(3)]
        found = await asyncio.wait_for(aside_if_long(LONG_BYTES, abs, -7), 60)
        event.set()
        await asyncio.gather(*pictures)
        return found

    assert run(decode_while_all_are_busy()) == 7


def test_work_that_nobody_waits_for_any_more_is_not_kept_until_its_turn() -> None:
    """It may be many megabytes of images."""

    async def abandon() -> bool:
        event = threading.Event()
        busy = [asyncio.create_task(aside(files(2), event.wait, 60)) for _ in range(2)]
        image = Image()
        kept = weakref.ref(image)
        waiting = asyncio.create_task(aside(files(2), id, image))
        await asyncio.sleep(0)
        del image
        assert kept() is not None
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled()
        del waiting
        is_kept = kept() is not None
        event.set()
        await asyncio.gather(*busy)
        return is_kept

    assert not run(abandon())


@pytest.mark.parametrize("size_bytes", [0, LONG_BYTES])
def test_an_error_is_told_where_the_work_was_asked_for(size_bytes: int) -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        run(aside_if_long(size_bytes, int, "x"))


class TestAThreadOfItsOwn:
    def test_gives_what_comes_out_and_raises_what_goes_wrong(self) -> None:
        assert run(on_a_thread_of_its_own(int, "7")) == 7
        with pytest.raises(ValueError, match="invalid literal"):
            run(on_a_thread_of_its_own(int, "x"))

    def test_is_waited_for_by_nobody_once_its_call_has_ended(self) -> None:
        """Nor by the interpreter at its exit, which waits for all that are no daemons."""
        went_on, may_end = threading.Event(), threading.Event()
        found: list[threading.Thread] = []

        def work() -> None:
            found.append(threading.current_thread())
            may_end.wait(60)
            went_on.set()

        async def abandon() -> None:
            waiting = asyncio.create_task(on_a_thread_of_its_own(work))
            await asyncio.sleep(0.01)
            waiting.cancel()
            await asyncio.wait([waiting], timeout=60)
            assert waiting.cancelled()

        run(abandon())
        assert found[0].daemon
        may_end.set()
        assert went_on.wait(60), "and it is not disturbed"
        found[0].join(60)
