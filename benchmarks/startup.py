"""How soon a server is ready, and how much memory it then holds: `python -m benchmarks.startup`.

Ready means that a health check through gRPC answers SERVING, counted from the start of the process. Memory is
what the server's own metrics report after it has answered 100 calls.
"""

from __future__ import annotations

import re
import statistics
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from benchmarks.servers import run_server
from serving.client import Client
from serving.settings import Provider


class StartupSettings(BaseSettings):
    """Start a server several times; print when it was ready and how much memory it held."""

    model_config = SettingsConfigDict(
        cli_prog_name="python -m benchmarks.startup",
        use_attribute_docstrings=True,
        cli_kebab_case=True,
    )

    models: Path = Path("models")
    """Folder of bundles."""
    provider: Provider = "cpu"
    """Of the server, which runs in the interpreter that runs this."""
    runs: int = Field(5, ge=1)
    """How many times."""


def main() -> None:
    """Print the median and the spread of both figures."""
    settings = StartupSettings(_cli_parse_args=True)
    seconds, megabytes = zip(
        *(start_once(settings.models, settings.provider) for _ in range(settings.runs)), strict=True
    )
    _report("ready after", "s", seconds)
    _report("resident", "MB", megabytes)


def start_once(models: Path, provider: Provider) -> tuple[float, float]:
    """Seconds until ready, and megabytes resident after 100 calls."""
    started = time.perf_counter()
    served = ("--models", str(models), "--default-model", "mnist", "--provider", provider)
    with run_server(*served, "--log-format", "json") as server:
        with grpc.insecure_channel(server.target) as channel:
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)  # type: ignore[attr-defined]  # untyped stub
        seconds = time.perf_counter() - started
        _call(server.target, times=100)
        megabytes = _resident_bytes(server.metrics_port) / 1e6
    return seconds, megabytes


def _report(name: str, unit: str, values: Sequence[float]) -> None:
    spread = f"{min(values):.2f} to {max(values):.2f}"
    print(f"{name}: {statistics.median(values):.2f} {unit} ({spread}, {len(values)} runs)")


def _call(target: str, times: int) -> None:
    with Client(target) as client:
        model = client.get_model("mnist")
        pixels = np.zeros((1, model.channels, model.height, model.width), np.uint8)
        for _ in range(times):
            client.classify(pixels, model="mnist")


def _resident_bytes(metrics_port: int) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics_port}/metrics", timeout=10) as reply:
        found = re.search(r"^process_resident_memory_bytes (\S+)", reply.read().decode(), re.MULTILINE)
    assert found is not None  # noqa: S101 - every server reports it
    return float(found[1])


if __name__ == "__main__":
    main()
