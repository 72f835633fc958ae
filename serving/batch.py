"""One batch: calls that run together, member by member, until every caller has an answer.

Members run in the bundle's order, in waves. Without early stop there is one wave, of all members asked for. With
it, the first wave is of the fewest members that can settle an image; then one member at a time runs on the images
that are still open. The members of a wave are tasks of their own, so that idle cores share them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np

from serving.ensemble import Pixels
from serving.inference import InferenceThreads
from serving.verdict import Counts, Floats, Verdict, are_settled, fewest_to_settle


@dataclass(frozen=True)
class Effort:
    """How many members to ask.

    Attributes:
        max_members: The first so many, 1 or more.
        early_stop: Whether an image leaves once the members still to come cannot change its class.
    """

    max_members: int
    early_stop: bool = False


@dataclass(frozen=True)
class Answer:
    """What one caller gets back.

    Attributes:
        verdict: On the images of this caller alone.
        queue_seconds: How long the call waited.
        inference_seconds: How long the batch took that it ran in.
    """

    verdict: Verdict
    queue_seconds: float
    inference_seconds: float


@dataclass(frozen=True, eq=False)
class Call:
    """One caller's images, uint8 (images, ...), what is asked of them, and where the answer goes."""

    pixels: Pixels
    effort: Effort
    expires: float
    answer: Future[Answer] = field(default_factory=Future)
    arrived: float = field(default_factory=time.perf_counter)


class Members(Protocol):
    """What a batch needs of an ensemble."""

    def run_member(self, member: int, pixels: Pixels) -> Floats:
        """What member `member`, counted from 0, says: uint8 (images, ...) to float32 (images, classes)."""

    def judge(self, members: Floats, members_run: Counts) -> Verdict:
        """See `serving.verdict.judge`."""

    def observe_batch(self, images: int) -> None:
        """Is told how many images ran together."""


class Batch:
    """Calls that ask alike, while they run."""

    def __init__(
        self, calls: Sequence[Call], members: Members, threads: InferenceThreads, done: Callable[[int], None]
    ) -> None:
        """Prepare calls of the same effort to run.

        Args:
            calls: At least one; their futures are set as running.
            members: What they run on.
            threads: Where.
            done: Told how many calls have their answer, whatever it is.
        """
        self._calls = calls
        self._effort = calls[0].effort
        self._members = members
        self._threads = threads
        self._done = done
        self._lock = threading.Lock()

    def start(self) -> None:
        """Begin on this thread, and hand the other members of the first wave to those that are free."""
        self._started = time.perf_counter()
        try:
            self._prepare()
        except Exception as error:  # noqa: BLE001  whatever goes wrong belongs to the callers, not to this thread
            self._fail(error)
            return
        limit = self._effort.max_members
        self._run_wave(range(fewest_to_settle(limit) if self._effort.early_stop else limit))

    def _prepare(self) -> None:
        """Put the calls' images together, which takes memory that there may not be."""
        pixels = [call.pixels for call in self._calls]
        self._pixels = pixels[0] if len(pixels) == 1 else np.concatenate(pixels)
        self._open = np.arange(len(self._pixels))
        self._members_run = np.zeros(len(self._pixels), np.int64)
        self._said: dict[int, Floats] = {}
        self._failure: Exception | None = None

    def _run_wave(self, members: range) -> None:
        self._wave = members
        self._left = len(members)
        if len(members) > 1:
            self._threads.add([partial(self._run_member, member) for member in members[1:]])
        self._run_member(members[0])

    def _run_member(self, member: int) -> None:
        try:
            self._said[member] = self._ask(member)
        except Exception as error:  # noqa: BLE001  as above
            self._failure = error
        with self._lock:
            self._left -= 1
            is_last = not self._left
        if is_last:
            self._end_wave()

    def _ask(self, member: int) -> Floats:
        """What a member says of the images that are open, float32 (images, classes); zeros for the others."""
        if len(self._open) == len(self._pixels):
            return self._members.run_member(member, self._pixels)
        said = np.zeros_like(self._said[0])
        said[self._open] = self._members.run_member(member, self._pixels[self._open])
        return said

    def _end_wave(self) -> None:
        if self._failure is not None:
            self._fail(self._failure)
            return
        try:
            if self._is_settled():
                self._answer()
            else:
                self._run_wave(range(self._wave.stop, self._wave.stop + 1))
        except Exception as error:  # noqa: BLE001  as above
            self._fail(error)

    def _is_settled(self) -> bool:
        """Take the images out that need no further member; whether none is left."""
        self._members_run[self._open] = self._wave.stop
        left = self._effort.max_members - self._wave.stop
        if left:
            sums = sum(self._said[member][self._open].astype(np.float64) for member in range(self._wave.stop))
            self._open = self._open[~are_settled(np.asarray(sums), left)]
        return not left or not len(self._open)

    def _answer(self) -> None:
        said = np.stack([self._said[member] for member in sorted(self._said)])
        verdict = self._members.judge(said, self._members_run)
        seconds = time.perf_counter() - self._started
        self._members.observe_batch(len(self._pixels))
        start = 0
        for call in self._calls:
            end = start + len(call.pixels)
            call.answer.set_result(Answer(verdict[start:end], self._started - call.arrived, seconds))
            start = end
        self._done(len(self._calls))

    def _fail(self, error: Exception) -> None:
        if len(self._calls) == 1:
            self._calls[0].answer.set_exception(error)
            self._done(1)
        else:  # one of them may be to blame: each for itself
            alone = [Batch([call], self._members, self._threads, self._done) for call in self._calls]
            self._threads.add([batch.start for batch in alone])
