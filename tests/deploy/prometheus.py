"""A real Prometheus on the project's own rules, watching a real server."""

from __future__ import annotations

import json
import math
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy/prometheus"
MUST_RUN = os.environ.get("CONSORT_TEST_DOCKER") == "1"
"""Where an engine must be there, so is the image."""
SECONDS = 60


class Prometheus:
    """Answers queries once there is something to answer."""

    def __init__(self, port: int) -> None:
        self._port = port

    def get(self, path: str, **parameters: str) -> Any:
        """The data of an answer; None while it is still starting.

        Raises:
            AssertionError: It refuses the question.
        """
        url = f"http://127.0.0.1:{self._port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as reply:
                return json.load(reply)["data"]
        except urllib.error.HTTPError as error:
            if error.code == 503:
                return None
            raise AssertionError(f"{path} {parameters}: {error.read().decode()}") from error
        except OSError:
            return None

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Series whose value is a number, as soon as there is one.

        Raises:
            AssertionError: There is none in a minute, or the expression is wrong.
        """
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            result = (self.get("query", query=expression) or {"result": []})["result"]
            if found := [series for series in result if not math.isnan(float(series["value"][1]))]:
                return found
            time.sleep(0.2)
        raise AssertionError(f"no data: {expression}")


@contextmanager
def run_prometheus(folder: Path, metrics_port: int) -> Iterator[Prometheus]:
    """Prometheus with the project's configuration, but for the target and the pace."""
    config = yaml.safe_load((RULES / "prometheus.yml").read_text())
    config["global"] = dict.fromkeys(config["global"], "1s")
    config["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{metrics_port}"]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    for name in config["rule_files"]:
        shutil.copy(RULES / name, folder)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [
        find_prometheus(folder),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (folder / "log").open("w") as log, subprocess.Popen(command, stderr=log) as process:
        try:
            yield Prometheus(port)
        finally:
            process.terminate()


def find_prometheus(folder: Path) -> str:
    """An installed one, or that of the image which docker-compose.yml names; else the test is skipped."""
    if installed := shutil.which("prometheus"):
        return installed
    image = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["prometheus"]["image"]
    command = folder / "prometheus"
    try:
        container = _docker("create", image)
        try:
            _docker("cp", f"{container}:/bin/prometheus", str(command))
        finally:
            _docker("rm", container)
    except (OSError, subprocess.CalledProcessError):
        if MUST_RUN:
            raise
        pytest.skip("neither the command prometheus nor its image is here")
    return str(command)


def _docker(*arguments: str) -> str:
    command = ["docker", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
