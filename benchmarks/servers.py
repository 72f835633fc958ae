"""Servers to measure, each in a process of its own on free ports."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

TICKS = os.sysconf("SC_CLK_TCK")
STOP_SECONDS = 30.0
"""More than our own servers take to drain."""
FREE_PORTS = ("--grpc-port", "0", "--metrics-port", "0")


@dataclass(frozen=True)
class Running:
    """A server that says it is ready."""

    pid: int
    target: str
    metrics_port: int

    def resident_mb(self) -> float:
        """Memory that the process holds now, in megabytes."""
        found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{self.pid}/status").read_text())
        assert found is not None  # noqa: S101  Linux reports it of every process
        return int(found[1]) / 1e3

    def processor_seconds(self) -> float:
        """What it and all that it started have used of the processor, in user and kernel mode."""
        return sum((int(fields[11]) + int(fields[12])) / TICKS for fields in self._processes().values())

    def send_all(self, number: signal.Signals) -> None:
        """Send a signal to it and to all that it started."""
        for pid in self._processes():
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def _processes(self) -> dict[int, list[str]]:
        """What `/proc` says, from its third field on, of each process in its session, by its number."""
        found = {int(stat.parent.name): _fields(stat) for stat in Path("/proc").glob("[0-9]*/stat")}
        return {pid: fields for pid, fields in found.items() if fields and int(fields[3]) == self.pid}


@contextmanager
def standing_still(servers: Sequence[Running]) -> Iterator[None]:
    """Stop servers meanwhile: some are at work even when nobody asks them."""
    for server in servers:
        server.send_all(signal.SIGSTOP)
    try:
        yield
    finally:
        for server in servers:
            server.send_all(signal.SIGCONT)


def _fields(stat: Path) -> list[str]:
    """Of one process; none if it has ended meanwhile."""
    try:
        return stat.read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


@contextmanager
def starting_on(core: int | None) -> Iterator[None]:
    """Bind the servers that are started inside to a core, and whatever is started afterwards to the others."""
    everywhere = os.sched_getaffinity(0)
    if core is not None:
        os.sched_setaffinity(0, {core})
    yield
    if core is not None:
        os.sched_setaffinity(0, everywhere - {core})


@contextmanager
def run_server(
    *arguments: str,
    module: str = "serving",
    python: Path | str = sys.executable,
    ports: Sequence[str] = FREE_PORTS,
) -> Iterator[Running]:
    """Start `python -m module`, wait for its line of JSON that says "ready", and stop it afterwards.

    Raises:
        RuntimeError: It ended before it was ready; its own words come along.
    """
    command = [str(python), "-m", module, *ports, *arguments]
    with subprocess.Popen(  # noqa: S603  our own command
        command, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stderr is not None  # noqa: S101  a pipe was asked for
        said: list[str] = []
        for line in process.stderr:
            said.append(line)
            if '"event": "ready"' in line:
                break
        else:
            raise RuntimeError(f"{module} did not start: {''.join(said)}")
        ready = json.loads(said[-1])
        reader = threading.Thread(target=_read_on, args=(process.stderr,))
        reader.start()
        try:
            yield Running(process.pid, f"127.0.0.1:{ready['grpc_port']}", ready["metrics_port"])
        finally:
            process.terminate()
            reader.join(STOP_SECONDS)
            if reader.is_alive():  # some rivals do not stop when they are told to, nor end what they started
                os.killpg(process.pid, signal.SIGKILL)
                reader.join()


def _read_on(log: IO[str]) -> None:
    """A pipe that nobody reads fills up, and then holds up whoever writes into it."""
    for _ in log:
        pass
