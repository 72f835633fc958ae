"""What callers notice when servers are lost: `python -m benchmarks.faults`.

Three servers, and callers that share one connection and check every answer. One server after the other is killed
with -9: behind Envoy with and without its retries, and without Envoy, where the client retries. Then all are
restarted in turn, as a rollout does. Each part prints a tally: answered right, answered wrong, failed, and how
many of the failures were on a server that was down.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import cycle
from pathlib import Path
from typing import Any

import grpc
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from benchmarks.edge import Edge, run_envoy
from benchmarks.fleet import Replica, run_fleet
from benchmarks.tally import Question, Tally, ask_while, questions_from
from serving.client.service_config import SERVICE_CONFIG

Fault = Callable[[Replica], None]


class FaultSettings(BaseSettings):
    """Lose servers under load on purpose, and print what callers noticed."""

    model_config = SettingsConfigDict(
        cli_prog_name="python -m benchmarks.faults", use_attribute_docstrings=True, cli_kebab_case=True
    )

    models: Path = Path("models")
    """Folder of bundles."""
    model: str = "mnist-small"
    """Name of the one that is asked."""
    images: Path = Path("examples/digits")
    """Folder of PNG files that are asked about."""
    servers: int = Field(3, ge=2)
    """How many."""
    callers: int = Field(8, ge=1)
    """How many wait for an answer at the same time."""
    seconds: float = Field(60.0, gt=0)
    """How long each part takes."""
    every_seconds: float = Field(5.0, gt=0)
    """From one server lost to the next; longer where a server takes longer to be back."""


@dataclass(frozen=True)
class Outage:
    """When a server was down, in seconds since 1970, from just before it went until it was ready again."""

    target: str
    began: float
    ended: float


def main() -> None:
    """Print a tally for each part."""
    settings = FaultSettings(_cli_parse_args=True)
    arguments = ("--models", str(settings.models), "--threads", "1", "--log-level", "info")
    with run_fleet(settings.servers, *arguments) as replicas:
        targets = [replica.target for replica in replicas]
        questions = questions_from(sorted(settings.images.glob("*.png")), settings.model, targets[0])
        for retries in (True, False):
            with envoy_before(targets, retries=retries) as edge, plain_channel(edge.target) as channel:
                edge.wait_until_healthy(len(targets))
                tally, outages = lose_servers(settings, replicas, channel, questions, lambda one: one.kill())
                report(f"killed, Envoy {'retries' if retries else 'does not retry'}", tally, outages, edge)
        with balanced_channel(targets) as channel:
            tally, outages = lose_servers(settings, replicas, channel, questions, lambda one: one.kill())
            report("killed, without Envoy, the client retries", tally, outages)
        with envoy_before(targets) as edge, plain_channel(edge.target) as channel:

            def restart(replica: Replica) -> None:
                """Stop a server once all of them are known to serve, as a rollout does."""
                edge.wait_until_healthy(len(targets))
                replica.stop()

            tally, outages = lose_servers(settings, replicas, channel, questions, restart)
            report("restarted in turn by SIGTERM, Envoy retries", tally, outages, edge)
            print(f"  {sum(replica.overdue for replica in replicas)} servers did not stop by themselves")


@contextmanager
def envoy_before(targets: Sequence[str], *, retries: bool = True) -> Iterator[Edge]:
    """Envoy in front of these servers, its files in a folder that goes with it."""
    with tempfile.TemporaryDirectory() as folder, run_envoy(targets, Path(folder), retries=retries) as edge:
        yield edge


def plain_channel(target: str) -> grpc.Channel:
    """One connection that retries nothing by itself."""
    return grpc.insecure_channel(target, options=[("grpc.enable_retries", 0)])


def balanced_channel(targets: Sequence[str]) -> grpc.Channel:
    """A connection to each server, with the service config of `serving.client`."""
    return grpc.insecure_channel(f"ipv4:{','.join(targets)}", options=[("grpc.service_config", SERVICE_CONFIG)])


def lose_servers(
    settings: FaultSettings,
    replicas: Sequence[Replica],
    channel: grpc.Channel,
    questions: Sequence[Question],
    lose: Fault,
) -> tuple[Tally, list[Outage]]:
    """Ask all the time, while one server after the other is lost and started again."""

    def go_down_in_turn() -> list[Outage]:
        """Lose a server every so often until the time is over; gives when each was away."""
        begin = time.monotonic()
        outages: list[Outage] = []
        for number, replica in enumerate(cycle(replicas), start=1):
            time.sleep(max(0.0, begin + number * settings.every_seconds - time.monotonic()))
            if time.monotonic() > begin + settings.seconds:
                return outages
            began = time.time()
            lose(replica)
            replica.start()
            outages.append(Outage(replica.target, began, time.time()))
        raise AssertionError("a cycle has no end")

    with ThreadPoolExecutor(1) as thread:
        operator = thread.submit(go_down_in_turn)
        tally = Tally()
        ask_while(lambda: not operator.done(), channel, questions, settings.callers, tally)
        return tally, operator.result()


def was_down(failure: dict[str, Any], outages: Sequence[Outage]) -> bool:
    """Whether a failure that Envoy logged was on a server that was down at some time of the call."""
    began = datetime.fromisoformat(failure["timestamp"]).timestamp()
    ended = began + failure["milliseconds"] / 1e3
    return any(
        failure["upstream"] == outage.target and began <= outage.ended and ended >= outage.began
        for outage in outages
    )


def report(name: str, tally: Tally, outages: Sequence[Outage], edge: Edge | None = None) -> None:
    """Print a part's tally."""
    print(f"{name}: {len(outages)} servers lost; {tally}")
    if edge is not None:
        failures = edge.failures(tally.failed.total())
        down = sum(was_down(failure, outages) for failure in failures)
        retries = edge.count("cluster.consort.upstream_rq_retry")
        print(f"  Envoy retried {retries} calls; {down} of {len(failures)} failures on the server that was down")


if __name__ == "__main__":
    main()
