"""The inference threads: as many as cores, each taking the next piece of work as soon as it is free.

What has begun comes first, so that the members of one batch spread over idle cores and no batch is left half done.
After that, the queue whose first call has waited longest starts its next batch. Nothing waits for a batch to end:
while its last member runs on one core, another core starts the next batch.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Protocol

Task = Callable[[], None]
"""A piece of work that handles its own failures."""


class Queue(Protocol):
    """Calls that wait for one model. The threads ask while they hold their lock."""

    def ready_at(self) -> float | None:
        """When the next batch may start, on the clock of `time.perf_counter`; None while nothing waits."""

    def take(self) -> Task:
        """Take the next batch out of the queue; the task starts it."""


class InferenceThreads:
    """A fixed number of threads that several queues share."""

    def __init__(self, count: int) -> None:
        self.changed = threading.Condition()
        """Guards the tasks and all queues; notified when either changes."""
        self._begun: deque[Task] = deque()
        self._queues: list[Queue] = []
        self._closing = False
        self._threads = [
            threading.Thread(target=self._work, name=f"inference-{number}", daemon=True) for number in range(count)
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

    def close(self) -> None:
        """Finish all that waits, then stop the threads."""
        with self.changed:
            self._closing = True
            self.changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (task := self._next()) is not None:
            task()

    def _next(self) -> Task | None:
        """The next task, waiting for it if need be; None once closed and empty."""
        with self.changed:
            while not self._begun:
                ready = [(at, queue) for queue in self._queues if (at := queue.ready_at()) is not None]
                if not ready and self._closing:
                    return None
                at, queue = min(ready, key=itemgetter(0), default=(None, None))
                if at is None or queue is None:
                    self.changed.wait()
                elif (delay := at - time.perf_counter()) > 0 and not self._closing:
                    self.changed.wait(delay)
                else:
                    return queue.take()
            return self._begun.popleft()
