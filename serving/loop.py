"""The event loop in which all calls are answered, on a thread of its own (decision 27)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import cache, partial
from typing import Any, ParamSpec, TypeVar

import uvloop

from serving.priority import stand_back

T = TypeVar("T")
P = ParamSpec("P")

LONG_BYTES = 2**18
"""From how many bytes on decoding or encoding takes milliseconds, in which the loop could answer other calls."""

ARRAYS = ThreadPoolExecutor(2, thread_name_prefix="arrays", initializer=stand_back)
"""For what takes long beside pictures, and is not to wait for them."""


@cache
def files(threads: int) -> Executor:
    """For image files: as many threads as compute, and no others.

    One that has decoded a large picture keeps its memory, so this bounds both how many are in memory at once and
    how much is kept.
    """
    return ThreadPoolExecutor(threads, thread_name_prefix="files", initializer=stand_back)


class EventLoop:
    """Runs from when it is made until it is closed."""

    def __init__(self) -> None:
        self.loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="calls", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the loop, and wait for it on another thread."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()

    def close(self) -> None:
        """End it; no call may be in progress."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


async def aside(helpers: Executor, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Do what takes long on another thread, and let the loop answer other calls meanwhile.

    Where the call ends before a thread is free, nothing of it is kept until one is.
    """
    waiting = [partial(work, *args, **kwargs)]

    def begin() -> T:
        return waiting.pop()()

    try:
        return await asyncio.get_running_loop().run_in_executor(helpers, begin)
    finally:
        waiting.clear()


async def aside_if_long(size_bytes: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Do work on so much on another thread, or at once where that is sooner done than another thread is woken."""
    return work(*args, **kwargs) if size_bytes < LONG_BYTES else await aside(ARRAYS, work, *args, **kwargs)


async def on_a_thread_of_its_own(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Do what may take for ever, such as reading a volume that has gone, on a thread that holds up no exit."""
    done: Future[T] = Future()
    done.set_running_or_notify_cancel()  # from here on, who stops waiting stops nothing else

    def begin() -> None:
        try:
            done.set_result(work(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001  it belongs to whoever waits
            done.set_exception(error)

    threading.Thread(target=begin, daemon=True).start()
    return await asyncio.wrap_future(done)
