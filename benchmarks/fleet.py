"""Several servers that can be killed, stopped, and started again where they were."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from threading import Timer

from benchmarks.servers import Running, run_server

STOP_SECONDS = 30.0
"""How long a server may take to stop: its grace of 20 seconds, and some."""


class Replica:
    """One server, in a process of its own, at an address that stays the same.

    Attributes:
        target: Host and port, from the first start on.
        running: The process, unless it is down.
        overdue: How many times it did not stop in time.
    """

    def __init__(self, *arguments: str) -> None:
        self._arguments = ("--host", "127.0.0.1", "--log-format", "json", *arguments)
        self._process = ExitStack()
        self.target = ""
        self.running: Running | None = None
        self.overdue = 0

    def start(self) -> None:
        """Start it, the first time on a free port, and wait until it is ready."""
        port = self.target.rpartition(":")[2] or "0"
        self.running = self._process.enter_context(run_server(*self._arguments, "--grpc-port", port))
        self.target = self.running.target

    def kill(self) -> None:
        """End it as a crash would, and wait until it is gone."""
        if self.running is not None:
            os.kill(self.running.pid, signal.SIGKILL)
            self.stop()

    def stop(self) -> None:
        """End it by SIGTERM, and wait until it is gone; one that does not go in time is killed, and counted."""
        if self.running is None:
            return
        overdue = Timer(STOP_SECONDS, self._kill_overdue, [self.running.pid])
        overdue.start()
        self._process.close()
        overdue.cancel()
        self.running = None

    def _kill_overdue(self, pid: int) -> None:
        self.overdue += 1
        os.kill(pid, signal.SIGKILL)


@contextmanager
def run_fleet(size: int, *arguments: str) -> Iterator[list[Replica]]:
    """So many servers with the same arguments, all of them ready; those that still run are stopped afterwards."""
    replicas = [Replica(*arguments) for _ in range(size)]
    try:
        with ThreadPoolExecutor(size) as threads:
            list(threads.map(Replica.start, replicas))
        yield replicas
    finally:
        for replica in replicas:
            replica.kill()
