"""Calls in, batches out: whatever waits when a core is free runs together.

Calls wait in order of arrival, and a batch takes those that ask alike up to a number of images. The queue is
bounded: a call that does not fit is refused at once. A call whose caller has gone, or whose deadline has passed,
is dropped before it runs. A batch that fails is run again call by call, so that one call's failure is its own.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from concurrent.futures import Future

from serving.batch import Answer, Batch, Call, Effort, Members
from serving.ensemble import Pixels
from serving.errors import CallerGone, QueueFull, ShuttingDown
from serving.inference import InferenceThreads, Task
from serving.metrics.models import Waiting


class Batcher:
    """A bounded queue in front of an ensemble, which the inference threads empty."""

    def __init__(
        self,
        members: Members,
        threads: InferenceThreads,
        *,
        max_batch_images: int,
        max_queue_images: int,
        max_delay_seconds: float = 0.0,
    ) -> None:
        """Open the queue.

        Args:
            members: What the batches run on.
            threads: Where.
            max_batch_images: Most images of several calls that run together.
            max_queue_images: Most images that may wait.
            max_delay_seconds: How long a call may wait for company while a core is free.
        """
        self._members = members
        self._threads = threads
        self._max_batch_images = max_batch_images
        self._max_queue_images = max_queue_images
        self._max_delay_seconds = max_delay_seconds
        self._changed = threads.changed
        self._waiting: deque[Call] = deque()
        self._waiting_images = 0
        self._running = 0
        self._closing = False
        threads.serve(self)

    def submit(self, pixels: Pixels, effort: Effort, timeout_seconds: float | None = None) -> Future[Answer]:
        """Queue one call's images, uint8 (images, ...).

        Cancelling the future drops a call that still waits; one that waits longer than `timeout_seconds` is
        dropped too, and its future raises CallerGone.

        Raises:
            QueueFull: The images would not fit.
            ShuttingDown: `close` was called.
        """
        expires = math.inf if timeout_seconds is None else time.perf_counter() + timeout_seconds
        call = Call(pixels, effort, expires)
        with self._changed:
            if self._closing:
                raise ShuttingDown("the server is shutting down")
            if self._waiting_images + len(pixels) > self._max_queue_images:
                self._drop_the_gone()
            if self._waiting_images + len(pixels) > self._max_queue_images:
                raise QueueFull(
                    f"{self._waiting_images} images wait already, {len(pixels)} more would exceed the limit of "
                    f"{self._max_queue_images}; try again later",
                    retry_after_seconds=max(0.0, call.arrived - self._waiting[0].arrived),
                )
            self._waiting.append(call)
            self._waiting_images += len(pixels)
            self._changed.notify()
        return call.answer

    def is_idle(self) -> bool:
        """Whether nothing waits or runs."""
        with self._changed:
            self._drop_the_gone()
            return not self._waiting and not self._running

    def leave(self) -> None:
        """Give up an idle queue to which nobody will submit any more; the threads forget it."""
        self._threads.leave(self)
        del self._members  # which holds this queue in turn: without the circle, memory is given back at once

    def waiting(self) -> Waiting:
        """What waits now."""
        with self._changed:
            oldest = time.perf_counter() - self._waiting[0].arrived if self._waiting else 0.0
            return Waiting(len(self._waiting), self._waiting_images, oldest)

    def close(self) -> None:
        """Refuse new calls, and wait until those that came are answered."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._waiting and not self._running)

    def ready_at(self) -> float | None:
        """When the next batch may start: at once, or when the first call has waited long enough for company."""
        if not self._waiting:
            return None
        delay = 0.0 if self._waiting_images >= self._max_batch_images or self._closing else self._max_delay_seconds
        return self._waiting[0].arrived + delay

    def take(self) -> Task:
        """Take the next batch out of the queue: the first call, and those behind it that ask alike and fit."""
        self._drop_the_gone()
        batch: list[Call] = []
        others: deque[Call] = deque()
        room = self._max_batch_images
        for call in self._waiting:
            if not batch or (call.effort == batch[0].effort and len(call.pixels) <= room):
                batch.append(call)
                room -= len(call.pixels)
            else:
                others.append(call)
        self._set_waiting(others)
        wanted = [call for call in batch if call.answer.set_running_or_notify_cancel()]
        self._running += len(wanted)
        return Batch(wanted, self._members, self._threads, self._done).start if wanted else _do_nothing

    def _drop_the_gone(self) -> None:
        now = time.perf_counter()
        wanted = deque(call for call in self._waiting if call.expires > now and not call.answer.cancelled())
        if len(wanted) == len(self._waiting):
            return
        for call in self._waiting:
            if call.expires <= now and call.answer.set_running_or_notify_cancel():
                call.answer.set_exception(CallerGone("the call's deadline passed before its turn"))
        self._set_waiting(wanted)

    def _set_waiting(self, calls: deque[Call]) -> None:
        self._waiting = calls
        self._waiting_images = sum(len(call.pixels) for call in calls)
        if self._closing:
            self._changed.notify_all()  # if all of them have gone, nothing else tells who closes

    def _done(self, calls: int) -> None:
        with self._changed:
            self._running -= calls
            if self._closing:
                self._changed.notify_all()


async def wait_for(answer: Future[Answer]) -> Answer:
    """Wait for what `Batcher.submit` gave, in an event loop; who stops waiting cancels it.

    Not by `asyncio.wrap_future`, after which it would be kept until the garbage collector comes.

    Raises:
        CancelledError: Whoever waits was cancelled.
        CallerGone: The call's deadline passed before its turn.
        Exception: Whatever failed in the members.
    """
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    answer.add_done_callback(lambda _: loop.call_soon_threadsafe(_wake, done))
    try:
        await done
    except asyncio.CancelledError:
        answer.cancel()
        raise
    if isinstance(late := answer.exception(), CallerGone):
        # Another one: this one would hold all of the call by its traceback, and be held by the answer.
        raise CallerGone(str(late))
    return answer.result()


def _wake(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)


def _do_nothing() -> None:
    """The task of a batch that nobody wants any more."""
