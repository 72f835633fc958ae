"""Servers to measure, each in a process of its own on free ports."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Running:
    """A server that says it is ready."""

    pid: int
    target: str
    metrics_port: int


@contextmanager
def run_server(*arguments: str, module: str = "serving") -> Iterator[Running]:
    """Start `python -m module`, wait for its line of JSON that says "ready", and stop it afterwards.

    Raises:
        RuntimeError: It ended before it was ready; its own words come along.
    """
    command = [sys.executable, "-m", module, "--grpc-port", "0", "--metrics-port", "0", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:  # noqa: S603  our own command
        assert process.stderr is not None  # noqa: S101  a pipe was asked for
        said: list[str] = []
        for line in process.stderr:
            said.append(line)
            if '"event": "ready"' in line:
                break
        else:
            raise RuntimeError(f"{module} did not start: {''.join(said)}")
        ready = json.loads(said[-1])
        try:
            yield Running(process.pid, f"127.0.0.1:{ready['grpc_port']}", ready["metrics_port"])
        finally:
            process.terminate()
            process.communicate()  # its last words need a reader
