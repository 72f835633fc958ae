"""What a supervisor and a worker say to each other through a pipe. In JSON: what unpickles runs what it reads.

The supervisor begins with the worker's number and settings. When its models are loaded, the worker says what a
call means that names none, and is told the port; when that is open, it says so. From then on it tells what it has
counted, each time that it is asked. If it cannot start, it says the error instead.
"""

from __future__ import annotations

import json
from multiprocessing.connection import Connection
from typing import Any

from serving.errors import StartupError
from serving.merging import Snapshot

GONE = (EOFError, OSError)
"""What is raised when the other end has gone, also in the middle of what it said."""


def say(line: Connection, what: object) -> None:
    """Say something that JSON has."""
    line.send_bytes(json.dumps(what).encode())


def hear(line: Connection) -> Any:
    """What comes next."""
    return json.loads(line.recv_bytes())


def say_error(line: Connection, error: StartupError) -> None:
    """Say why a worker does not start."""
    say(line, {"error": type(error).__name__, "message": str(error)})


def hear_start(line: Connection) -> Any:
    """What a worker says next while it starts.

    Raises:
        StartupError: It does not.
    """
    said = hear(line)
    if isinstance(said, dict):
        raise _startup_errors()[said["error"]](said["message"])
    return said


def say_snapshot(line: Connection, snapshot: Snapshot) -> None:
    """Tell what was counted."""
    say(line, {family: [(*key, value) for key, value in series.items()] for family, series in snapshot.items()})


def hear_snapshot(line: Connection) -> Snapshot:
    """What was counted."""
    return {
        family: {(name, tuple((label, named) for label, named in labels)): value for name, labels, value in series}
        for family, series in hear(line).items()
    }


def _startup_errors() -> dict[str, type[StartupError]]:
    """By their names."""
    kinds, found = [StartupError], {}
    while kinds:
        kind = kinds.pop()
        found[kind.__name__] = kind
        kinds += kind.__subclasses__()
    return found
