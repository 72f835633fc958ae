"""What the server does when calls come whether it can answer or not: `python -m benchmarks.overload`.

First the peak, with callers that wait for each answer. Then arrivals at shares of it, whose latencies show the
queue. Then arrivals at three times the peak, where the server should answer as much as ever and refuse the rest at
once; and at half the peak again, to see that nothing is left behind.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from benchmarks.load import Load, Outcome, callers, classify_request, drive, pixels_of
from benchmarks.servers import run_server, starting_on
from export.manifest import read_manifest
from serving.settings import Provider

PART_SECONDS = 10.0
PROMPT_SECONDS = 0.01
"""A refusal that takes longer is no help to who could ask another server."""


class OverloadSettings(BaseSettings):
    """Overload a server on purpose, and print what came of it."""

    model_config = SettingsConfigDict(
        cli_prog_name="python -m benchmarks.overload", use_attribute_docstrings=True, cli_kebab_case=True
    )

    models: Path = Path("models")
    """Folder of bundles."""
    bundle: str = "mnist/2"
    """Name and version of the one that is asked."""
    provider: Provider = "cpu"
    """Of the server, which runs in the interpreter that runs this."""
    shares: list[float] = [0.25, 0.5, 0.75, 0.9]
    """Of the peak, at which calls come before the overload."""
    seconds: float = Field(60.0, gt=0)
    """Of overload; the other parts take ten."""
    times_peak: float = Field(3.0, gt=1)
    """How much faster than the peak calls come."""
    server_core: int | None = None
    """Core that the server is bound to, with callers on the others; by default both share all cores."""


def main() -> None:
    """Print a line for each part."""
    settings = OverloadSettings(_cli_parse_args=True)
    name, _ = settings.bundle.split("/")
    shape = read_manifest(settings.models / settings.bundle).input.shape
    request = classify_request(pixels_of(1, shape), name)
    with ExitStack() as stack:
        with starting_on(settings.server_core):
            served = ("--models", str(settings.models), "--provider", settings.provider)
            server = stack.enter_context(run_server(*served, "--log-format", "json"))
        pool = stack.enter_context(callers(1))

        def ask(many: int, seconds: float, rate: float | None = None) -> Outcome:
            return drive(Load(server.target, request, 1, many, seconds, rate), pool, 1)

        peak = ask(32, PART_SECONDS).images_per_second()
        print(f"peak, 32 callers: {peak:,.0f} images/s, {server.resident_mb():.0f} MB resident")
        for share in settings.shares:
            _report(f"{share:g} of the peak", ask(1, PART_SECONDS, peak * share), peak)
        _report(
            f"{settings.times_peak:g} times the peak", ask(1, settings.seconds, peak * settings.times_peak), peak
        )
        print(f"{server.resident_mb():.0f} MB resident")
        _report("half the peak, the second after", ask(1, 1, peak / 2), peak)


def _report(name: str, outcome: Outcome, peak: float) -> None:
    rate, p50, p99 = outcome.images_per_second(), outcome.percentile_ms(50), outcome.percentile_ms(99)
    print(f"{name}: {rate:,.0f} images/s ({rate / peak:.2f} of the peak), p50 {p50:.1f} ms, p99 {p99:.1f} ms")
    for code, seconds in outcome.refused_seconds.items():
        late = np.percentile(seconds, [50, 99, 100]) * 1e3
        in_time = float((np.array(seconds) <= PROMPT_SECONDS).mean())
        print(
            f"  {code}: {len(seconds):,} calls, after p50 {late[0]:.1f} ms, p99 {late[1]:.1f} ms, at most "
            f"{late[2]:.1f} ms; {in_time:.1%} within {PROMPT_SECONDS * 1e3:.0f} ms"
        )


if __name__ == "__main__":
    main()
