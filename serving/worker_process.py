"""A worker as its supervisor sees it: a process, and the pipe to it."""

from __future__ import annotations

import subprocess
import sys
import time
from multiprocessing.connection import Pipe
from typing import Any

from serving.errors import WorkerLost
from serving.line import GONE, hear_snapshot, hear_start, say
from serving.merging import Snapshot
from serving.settings import ServerSettings


class WorkerProcess:
    """A worker's process and the pipe to it, as its supervisor sees them."""

    def __init__(self, number: int, settings: ServerSettings) -> None:
        """Start the process; it begins to load models.

        Raises:
            WorkerLost: It cannot be started, for want of descriptors or processes, say.
        """
        self.number = number
        self.heard = time.monotonic()
        """When it last said something."""
        self._is_asked = False
        try:
            self.line, theirs = Pipe()
            with theirs:
                self._process = subprocess.Popen(  # noqa: S603  our own command
                    [sys.executable, "-m", "serving.worker", str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    process_group=0,  # a terminal's Ctrl-C is for the supervisor
                )
        except OSError as error:
            raise WorkerLost(f"worker {number} cannot be started: {error}") from error
        # The settings are resolved: no file of them is read again.
        self._say((number, settings.model_dump(mode="json") | {"config": None}))

    def receive(self) -> Any:
        """What the worker says next while it starts.

        Raises:
            StartupError: It does not start.
        """
        try:
            said = hear_start(self.line)
            self.heard = time.monotonic()
            return said
        except GONE as error:
            raise WorkerLost(f"worker {self.number} ended with {self.wait()} before it took calls") from error

    def open(self, port: int) -> None:
        """Have it take calls."""
        self._say(port)

    def ask(self) -> None:
        """Begin to ask what it has counted; while an answer is due, nothing more is asked."""
        if not self._is_asked:
            self._is_asked = self._say(None)

    def answer(self, seconds: float) -> Snapshot | None:
        """What it has counted; None if that does not come in so many seconds, or it has ended."""
        try:
            if not self._is_asked or not self.line.poll(seconds):
                return None
            snapshot = hear_snapshot(self.line)
        except GONE:
            return None
        self._is_asked, self.heard = False, time.monotonic()
        return snapshot

    def wait(self) -> int:
        """Wait until it has ended; gives its exit code, which is a signal's if negative."""
        return self._process.wait()

    def terminate(self) -> None:
        """Have it drain, or end at once if it takes no calls yet."""
        self._process.terminate()

    def kill(self) -> None:
        """End it now."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Close the pipe."""
        self.line.close()

    def _say(self, what: object) -> bool:
        """Whether the worker is there to hear it."""
        try:
            say(self.line, what)
        except GONE:
            return False
        return True
