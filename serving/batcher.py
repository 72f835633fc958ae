"""Calls in, batches out: whatever waits when the members are free runs together.

One thread a model takes waiting calls in order, up to a number of images, runs them as one batch and gives every
caller its own rows. Nothing is delayed to wait for company. The queue is bounded: a call that does not fit is
refused at once. A call whose caller has gone before its turn is dropped.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from serving.ensemble import Pixels
from serving.errors import Overloaded, ShuttingDown
from serving.verdict import Floats


@dataclass(frozen=True)
class Answer:
    """What one caller gets back.

    Attributes:
        members: float32 (members, images, classes), the rows of this caller alone.
        queue_seconds: How long the call waited.
        inference_seconds: How long the batch took that it ran in.
    """

    members: Floats
    queue_seconds: float
    inference_seconds: float


@dataclass(frozen=True)
class _Call:
    pixels: Pixels
    answer: Future[Answer] = field(default_factory=Future)
    arrived: float = field(default_factory=time.perf_counter)


class Batcher:
    """A bounded queue in front of an ensemble, and the thread that empties it."""

    def __init__(
        self,
        run: Callable[[Pixels], Floats],
        max_batch_images: int,
        max_queue_images: int,
        observe_batch: Callable[[int], None],
    ) -> None:
        """Start the thread.

        Args:
            run: uint8 (images, ...) to float32 (members, images, classes).
            max_batch_images: Most images of several calls that run together.
            max_queue_images: Most images that may wait.
            observe_batch: Told the number of images of every batch.
        """
        self._run = run
        self._max_batch_images = max_batch_images
        self._max_queue_images = max_queue_images
        self._observe_batch = observe_batch
        self._waiting: deque[_Call] = deque()
        self._waiting_images = 0
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="batcher", daemon=True)
        self._thread.start()

    def submit(self, pixels: Pixels) -> Future[Answer]:
        """Queue one call's images, uint8 (images, ...). Cancelling the future drops a call that still waits.

        Raises:
            Overloaded: The images would not fit.
            ShuttingDown: `close` was called.
        """
        call = _Call(pixels)
        with self._changed:
            if self._closing:
                raise ShuttingDown("the server is shutting down")
            if self._waiting_images + len(pixels) > self._max_queue_images:
                self._drop_cancelled()
            if self._waiting_images + len(pixels) > self._max_queue_images:
                raise Overloaded(
                    f"{self._waiting_images} images wait already, {len(pixels)} more would exceed the limit of "
                    f"{self._max_queue_images}; try again later"
                )
            self._waiting.append(call)
            self._waiting_images += len(pixels)
            self._changed.notify()
        return call.answer

    def close(self) -> None:
        """Refuse new calls, answer those that wait, stop the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while (batch := self._take()) or not self._closing:
            self._answer([call for call in batch if call.answer.set_running_or_notify_cancel()])

    def _take(self) -> list[_Call]:
        """The next batch, waiting for it if need be; empty if all that waited was cancelled, or once closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            self._drop_cancelled()
            batch: list[_Call] = []
            images = 0
            while self._waiting and (not batch or images + len(self._waiting[0].pixels) <= self._max_batch_images):
                batch.append(self._waiting.popleft())
                images += len(batch[-1].pixels)
            self._waiting_images -= images
            return batch

    def _drop_cancelled(self) -> None:
        self._waiting = deque(call for call in self._waiting if not call.answer.cancelled())
        self._waiting_images = sum(len(call.pixels) for call in self._waiting)

    def _answer(self, batch: list[_Call]) -> None:
        if not batch:
            return
        try:
            answers = self._run_batch(batch)
        except Exception as error:  # noqa: BLE001 - whatever goes wrong belongs to the callers, not to this thread
            for call in batch:
                call.answer.set_exception(error)
        else:
            for call, answer in zip(batch, answers, strict=True):
                call.answer.set_result(answer)

    def _run_batch(self, batch: list[_Call]) -> list[Answer]:
        pixels = batch[0].pixels if len(batch) == 1 else np.concatenate([call.pixels for call in batch])
        started = time.perf_counter()
        members = self._run(pixels)
        seconds = time.perf_counter() - started
        self._observe_batch(len(pixels))
        ends = np.cumsum([len(call.pixels) for call in batch]).tolist()
        return [
            Answer(members[:, end - len(call.pixels) : end], started - call.arrived, seconds)
            for call, end in zip(batch, ends, strict=True)
        ]
