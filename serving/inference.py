"""The inference threads: as many as cores, each taking the next piece of work as soon as it is free.

What has begun comes first, so that the members of one batch spread over idle cores and no batch is left half done.
After that, the queue whose first call has waited longest starts its next batch. Nothing waits for a batch to end:
while its last member runs on one core, another core starts the next batch.

What nobody waits for, such as a candidate's answers, is offered: it runs where a core is free and no call wants
it.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from operator import itemgetter
from typing import Protocol

from serving.placement import place_of
from serving.priority import stand_back

Task = Callable[[], None]
"""A piece of work that handles its own failures."""


class Queue(Protocol):
    """Calls that wait for one model. The threads ask while they hold their lock."""

    def ready_at(self) -> float | None:
        """When the next batch may start, on the clock of `time.perf_counter`; None while nothing waits."""

    def take(self) -> Task:
        """Take the next batch out of the queue; the task starts it."""


class InferenceThreads:
    """A fixed number of threads that several queues share. No others run members for calls."""

    def __init__(self, count: int) -> None:
        """Start so many threads."""
        self._count = self._idle = count
        self.changed = threading.Condition()
        """Guards the tasks and all queues; notified when either changes."""
        self._begun: deque[Task] = deque()
        self._offered: deque[Task] = deque()
        self._queues: list[Queue] = []
        self._closing = False
        self._threads = [
            threading.Thread(target=self._work, args=(number,), name=f"inference-{number}", daemon=True)
            for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def serve(self, queue: Queue) -> None:
        """Take work from one more queue."""
        with self.changed:
            self._queues.append(queue)

    def add(self, tasks: Sequence[Task]) -> None:
        """Have tasks of a batch that has begun run before anything new starts."""
        with self.changed:
            self._begun.extend(tasks)
            self.changed.notify(len(tasks))

    def leave(self, queue: Queue) -> None:
        """Take no more work from a queue, which is empty and stays so."""
        with self.changed:
            self._queues.remove(queue)

    def offer(self, task: Task) -> bool:
        """Have a task run that nobody waits for; not taken where calls, or earlier offers, want all cores."""
        with self.changed:
            if self._closing or len(self._offered) >= self._idle or self._has_calls():
                return False
            self._offered.append(task)
            self.changed.notify()
            return True

    def resume(self, task: Task) -> None:
        """Have the next part of an offered task run, before other offers and after all calls."""
        with self.changed:
            self._offered.appendleft(task)
            self.changed.notify()

    def close(self) -> None:
        """Finish all that waits, then stop the threads."""
        with self.changed:
            self._closing = True
            self.changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self, number: int) -> None:
        stand_back()
        place = place_of(number, self._count)
        with self.changed:
            while not (self._closing and not self._has_work()):
                if (task := self._take()) is not None:
                    self._run(task, place)
                else:
                    self.changed.wait(self._seconds_to_wait())

    def _run(self, task: Task, place: AbstractContextManager[object]) -> None:
        """Run a task without the lock."""
        self._idle -= 1
        self.changed.release()
        try:
            with place:
                task()
        finally:
            self.changed.acquire()
            self._idle += 1

    def _take(self) -> Task | None:
        """What can start now: what has begun, or the queue that has waited longest, or else what was offered."""
        if self._begun:
            return self._begun.popleft()
        ready_at, queue = self._next_queue()
        if queue is not None and (ready_at <= time.perf_counter() or self._closing):
            return queue.take()
        return self._offered.popleft() if self._offered else None

    def _next_queue(self) -> tuple[float, Queue | None]:
        """The queue whose next batch may start first, and when; infinity and None while nothing waits."""
        ready = ((at, queue) for queue in self._queues if (at := queue.ready_at()) is not None)
        return min(ready, key=itemgetter(0), default=(math.inf, None))

    def _has_work(self) -> bool:
        return bool(self._offered) or self._has_calls()

    def _has_calls(self) -> bool:
        return bool(self._begun) or self._next_queue()[1] is not None

    def _seconds_to_wait(self) -> float | None:
        """Until a queue is ready whose calls wait for company; None where only a change can bring work."""
        ready_at, queue = self._next_queue()
        return None if queue is None else max(0.0, ready_at - time.perf_counter())
