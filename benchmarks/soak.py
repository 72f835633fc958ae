"""Whether a server stays as it is under hours of mixed load and crashing clients: `python -m benchmarks.soak`.

Starts a server, brings it to its largest size by a burst of as many calls as it takes at once, sends it the mix
at an even rate (`benchmarks.mix`) while clients crash (`benchmarks.crashes`), and prints by minute what callers
saw and what the process holds. Beside it stands what the machine did meanwhile to a process that asks no server
(`benchmarks.bystander`): a minute in which both are slow is the machine's. Exit code 1 if calls ended as they must
not, memory grew by more than the limit, or descriptors were left open.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict
from rich.console import Console
from rich.table import Table

from benchmarks.bystander import Lap, stand_by
from benchmarks.crashes import crash_repeatedly
from benchmarks.load import Load, callers, classify_request, drive, pixels_of
from benchmarks.mix import MODEL, SHAPE, Ended, make_kinds, run_mix
from benchmarks.servers import run_server

STEADY_KIND = "one image"
"""Its latencies are shown."""
BURST_CALLERS, BURST_IMAGES = 128, 8
"""As many calls as a server has in progress at most: a thread each, which keeps its memory."""
SAMPLE_SECONDS = 2.0
REST_SECONDS = 5.0
"""From the last answer until what is left open counts as left."""


class SoakSettings(BaseSettings):
    """Put mixed load and crashing clients on a server for a long time."""

    model_config = SettingsConfigDict(
        cli_prog_name="python -m benchmarks.soak", use_attribute_docstrings=True, cli_kebab_case=True
    )

    minutes: float = Field(30.0, gt=0)
    """How long."""
    warm_up_minutes: int = Field(2, ge=0)
    """Whole minutes before growth is counted."""
    calls_per_second: float = Field(20.0, gt=0)
    """Of the mix."""
    burst_seconds: float = Field(15.0, gt=0)
    """How long the burst before it lasts."""
    crash_pause_seconds: float = Field(5.0, gt=0)
    """Between two clients that are killed."""
    max_growth: float = Field(0.05, ge=0)
    """Most that resident memory may grow after the warm-up, as a share."""
    models: Path = Path("models")
    """Folder of bundles."""
    seed: int = 0
    """Of the order of the calls."""


@dataclass(frozen=True)
class Held:
    """What a process holds at a moment, in seconds since the load began."""

    at: float
    resident_bytes: int
    descriptors: int
    threads: int


@dataclass(frozen=True)
class Minute:
    """One minute: calls of all kinds, latencies of the steady kind and the bystander's, medians of the rest."""

    calls: int
    p50_ms: float
    p99_ms: float
    bystander_p99_ms: float
    resident_mb: float
    descriptors: float
    threads: float


def main() -> int:
    """Print the tally; 0 if the server stayed as it is."""
    settings = SoakSettings(_cli_parse_args=True)
    seconds = settings.minutes * 60
    server_arguments = ("--models", str(settings.models), "--default-model", "mnist", "--log-format", "json")
    with callers(3) as pool, run_server(*server_arguments) as server:
        before = look_at(server.pid, 0.0)
        burst = classify_request(pixels_of(BURST_IMAGES, SHAPE), MODEL)
        drive(Load(server.target, burst, BURST_IMAGES, BURST_CALLERS, settings.burst_seconds), pool, 2)
        mix = pool.submit(run_mix, server.target, settings.calls_per_second, seconds, settings.seed)
        bystander = pool.submit(stand_by, seconds)
        crashes = pool.submit(
            crash_repeatedly, server.target, seconds, settings.crash_pause_seconds, settings.seed
        )
        held = watch(server.pid, [mix, crashes, bystander])
        time.sleep(REST_SECONDS)
        after = look_at(server.pid, seconds)
        ended, crashed = mix.result(), crashes.result()
    minutes = by_minute(ended, held, bystander.result())
    grown = growth([minute.resident_mb for minute in minutes], settings.warm_up_minutes)
    unexpected = find_unexpected(ended)
    left_open = after.descriptors - before.descriptors
    console = Console(width=110)
    console.print(_table(minutes))
    for line in _tally(ended, crashed):
        console.print(line)
    console.print(f"ended as they must not: {sum(unexpected.values())} {dict(unexpected) or ''}")
    console.print(f"descriptors at rest: {before.descriptors} before, {after.descriptors} after")
    for part, over in zip(("first", "second", "last"), over_bystander(minutes), strict=True):
        console.print(f"p99 over the bystander's, median of the {part} third of the minutes: {over:.2f}")
    console.print(f"resident memory after {settings.warm_up_minutes} minutes of warm-up: {grown:+.1%}")
    return int(bool(unexpected) or grown > settings.max_growth or left_open > 0)


def watch(pid: int, until_done: Sequence[Future[Any]]) -> list[Held]:
    """Look at a process again and again until all work is done."""
    began, held = time.monotonic(), []
    while wait(until_done, SAMPLE_SECONDS).not_done:
        held.append(look_at(pid, time.monotonic() - began))
    return held


def look_at(pid: int, at: float) -> Held:
    """What a process holds now."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    resident_kilobytes = int(status["VmRSS"].split()[0])
    return Held(at, resident_kilobytes * 1024, len(os.listdir(f"/proc/{pid}/fd")), int(status["Threads"]))  # noqa: PTH208


def by_minute(ended: Sequence[Ended], held: Sequence[Held], laps: Sequence[Lap]) -> list[Minute]:
    """Gather whole minutes; what is left at the end is no minute, unless there is nothing else."""
    last = max(held[-1].at if held else 0.0, max((call.due for call in ended), default=0.0))
    return [_gather(ended, held, laps, minute * 60.0) for minute in range(max(1, round(last / 60)))]


def growth(resident: Sequence[float], warm_up: int) -> float:
    """From the first minute after the warm-up to the last, as a share; 0 if there are no two of them."""
    counted = resident[warm_up:]
    return counted[-1] / counted[0] - 1 if len(counted) > 1 else 0.0


def over_bystander(minutes: Sequence[Minute]) -> list[float]:
    """Of each third of the minutes, the median of p99 as a multiple of the bystander's: flat if they are alike."""
    ratios = np.array([minute.p99_ms / minute.bystander_p99_ms for minute in minutes])
    return [float(np.median(third)) if len(third) else float("nan") for third in np.array_split(ratios, 3)]


def find_unexpected(ended: Sequence[Ended]) -> Counter[str]:
    """Calls that ended as their kind must not, by kind and status."""
    allowed = {kind.name: kind.codes for kind in make_kinds()}
    return Counter(f"{call.kind}: {call.code}" for call in ended if call.code not in allowed[call.kind])


def _gather(ended: Sequence[Ended], held: Sequence[Held], laps: Sequence[Lap], start: float) -> Minute:
    calls = [call for call in ended if start <= call.due < start + 60]
    steady = [call.seconds * 1e3 for call in calls if call.kind == STEADY_KIND] or [float("nan")]
    beside = [lap.seconds * 1e3 for lap in laps if start <= lap.due < start + 60] or [float("nan")]
    then = [one for one in held if start <= one.at < start + 60]
    return Minute(
        calls=len(calls),
        p50_ms=float(np.percentile(steady, 50)),
        p99_ms=float(np.percentile(steady, 99)),
        bystander_p99_ms=float(np.percentile(beside, 99)),
        resident_mb=statistics.median(one.resident_bytes for one in then) / 1e6,
        descriptors=statistics.median(one.descriptors for one in then),
        threads=statistics.median(one.threads for one in then),
    )


def _table(minutes: Sequence[Minute]) -> Table:
    table = Table(
        "minute", "calls", "p50 ms", "p99 ms", "bystander's p99", "resident MB", "descriptors", "threads"
    )
    for number, minute in enumerate(minutes, start=1):
        table.add_row(
            str(number),
            f"{minute.calls:,}",
            f"{minute.p50_ms:.1f}",
            f"{minute.p99_ms:.1f}",
            f"{minute.bystander_p99_ms:.1f}",
            f"{minute.resident_mb:.1f}",
            f"{minute.descriptors:.0f}",
            f"{minute.threads:.0f}",
        )
    return table


def _tally(ended: Sequence[Ended], crashed: Counter[str]) -> list[str]:
    counts = Counter((call.kind, call.code) for call in ended)
    return [
        *(f"{kind}: {many:,} {code}" for (kind, code), many in sorted(counts.items())),
        *(f"{sort}: {many:,}" for sort, many in crashed.items()),
    ]


if __name__ == "__main__":
    sys.exit(main())
