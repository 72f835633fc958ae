"""What docker-compose.yml promises, with real containers: up, healthy, answering, watched, drained, down."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from serving.client import Client
from tests.digits import write_digits
from tests.imaging.test_files import encode, gradient

ROOT = Path(__file__).parents[2]
DIGITS = sorted((ROOT / "examples/digits").glob("*.png"))
WITH_DOCKER = os.environ.get("CONSORT_TEST_DOCKER") == "1"
"""Set where an engine must be there, so that its absence is a failure and not a skip."""


def free_port() -> int:
    """None of those that the system gives to other tests, which may all come before the images are built."""
    for port in random.sample(range(20_000, 32_000), 100):
        with suppress(OSError), socket.create_server(("", port)):
            return port
    raise AssertionError("a hundred ports are taken")


@dataclass
class Compose:
    """The project's services under a name and ports of their own."""

    grpc_port: int = field(default_factory=free_port)
    metrics_port: int = field(default_factory=free_port)
    prometheus_port: int = field(default_factory=free_port)
    explorer_port: int = field(default_factory=free_port)
    environment: dict[str, str] = field(default_factory=dict)

    def __call__(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "CONSORT_GRPC_PORT": str(self.grpc_port),
            "CONSORT_METRICS_PORT": str(self.metrics_port),
            "CONSORT_PROMETHEUS_PORT": str(self.prometheus_port),
            "CONSORT_EXPLORER_PORT": str(self.explorer_port),
            **self.environment,
        }
        result = subprocess.run(
            ["docker", "compose", "--project-name", "consort-test", *arguments],  # noqa: S607 - from PATH
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert not check or result.returncode == 0, result.stdout + result.stderr
        return result

    def wait_until_in_flight(self) -> None:
        """Wait until the server is at work on a Classify call."""
        for _ in range(500):
            with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=10) as reply:
                if 'consort_in_flight_calls{method="Classify"} 1.0' in reply.read().decode():
                    return
            time.sleep(0.01)
        raise AssertionError("no call came in")

    def query(self, expression: str) -> list[dict[str, Any]]:
        """What Prometheus answers, once it answers anything."""
        url = f"http://127.0.0.1:{self.prometheus_port}/api/v1/query?" + urllib.parse.urlencode(
            {"query": expression}
        )
        for _ in range(120):
            try:
                with urllib.request.urlopen(url, timeout=10) as reply:
                    found: list[dict[str, Any]] = json.load(reply)["data"]["result"]
            except OSError:  # it is still starting
                found = []
            if found:
                return found
            time.sleep(0.5)
        raise AssertionError(f"Prometheus answers nothing to {expression}")


def require_engine() -> None:
    """Skip where no engine answers, unless one must."""
    answers = shutil.which("docker") and not subprocess.call(
        ["docker", "info"],  # noqa: S607 - from PATH
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    if not answers and not WITH_DOCKER:
        pytest.skip("no Docker engine answers")


@pytest.fixture(scope="module")
def compose() -> Iterator[Compose]:
    """The services that `docker compose up` starts, built from this checkout, running and healthy."""
    require_engine()
    compose = Compose()
    try:
        compose("up", "--build", "--detach", "--wait")
        yield compose
    finally:
        compose("--profile", "train", "--profile", "explorer", "down", "--volumes", "--timeout", "30")


def test_the_example_images_are_answered_from_the_host(compose: Compose) -> None:
    with Client(f"127.0.0.1:{compose.grpc_port}") as client:
        found = client.classify(DIGITS, model="mnist").classifications
    assert [one.label for one in found] == [file.name[0] for file in DIGITS]


def test_prometheus_answers_queries_over_the_histograms(compose: Compose) -> None:
    with Client(f"127.0.0.1:{compose.grpc_port}") as client:
        client.classify(DIGITS, model="mnist")
    (median,) = compose.query(
        'histogram_quantile(0.5, sum by (le) (consort_stage_seconds_bucket{stage="total"})) > 0'
    )
    assert 0 < float(median["value"][1]) < 10
    members = compose.query('consort_member_inference_seconds_count{model="mnist"} > 0')
    assert {series["metric"]["member"] for series in members} == set("123456")


def test_prometheus_evaluates_the_rules(compose: Compose) -> None:
    with Client(f"127.0.0.1:{compose.grpc_port}") as client:
        client.classify(DIGITS, model="mnist")
    assert compose.query('consort:judged:increase1h{job="consort", model="mnist"}')


def test_the_server_is_confined(compose: Compose) -> None:
    """Not root, nothing to write to, no torch."""
    code = "import os, importlib.util; print(os.getuid(), importlib.util.find_spec('torch'))"
    assert compose("exec", "server", "python", "-c", code).stdout == "65532 None\n"
    for folder in ("/", "/models", "/opt/consort"):
        assert compose("exec", "server", "touch", f"{folder}/x", check=False).returncode == 1
    status = compose("exec", "server", "grep", "-E", "^(Cap...|NoNewPrivs)", "/proc/self/status").stdout
    found = dict(line.split() for line in status.splitlines())
    assert found.pop("NoNewPrivs:") == "1"
    assert len(found) == 5
    assert set(found.values()) == {"0000000000000000"}


@pytest.mark.parametrize("service", ["server", "prometheus"])
def test_the_engine_confines_what_it_runs(compose: Compose, service: str) -> None:
    """As the engine tells it: not root, nothing writable but volumes, no capabilities, nothing of the host."""
    container = compose("ps", "--quiet", service).stdout.strip()
    command = ["docker", "inspect", container]
    (found,) = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    host = found["HostConfig"]
    assert found["Config"]["User"] not in ("", "0", "root")
    assert (host["ReadonlyRootfs"], host["Privileged"], host["CapDrop"]) == (True, False, ["ALL"])
    assert host["CapAdd"] is None
    assert "no-new-privileges:true" in host["SecurityOpt"]
    assert "host" not in (host["NetworkMode"], host["PidMode"], host["IpcMode"])
    assert not [mount for mount in found["Mounts"] if mount["Type"] == "bind" and mount["RW"]]


def test_the_explorer_asks_the_server_and_is_confined(compose: Compose) -> None:
    compose("--profile", "explorer", "up", "--build", "--detach", "--wait", "explorer")
    with httpx2.Client(base_url=f"http://127.0.0.1:{compose.explorer_port}", timeout=30) as explorer:
        answer = explorer.post("/api/classify?centre=1", content=DIGITS[0].read_bytes()).json()
        version = answer["model"]["version"]
        layers = explorer.get(f"/api/layers?name=mnist&version={version}&member=1").json()["layers"]
        images = explorer.get("/api/metrics").json()["images"]
    assert answer["verdict"]["label"] == DIGITS[0].name[0]
    assert len(layers) > 10
    assert images >= 1
    code = "import os, importlib.util; print(os.getuid(), importlib.util.find_spec('torch'))"
    assert compose("exec", "explorer", "python", "-c", code).stdout == "65532 None\n"
    assert compose("exec", "explorer", "touch", "/opt/consort/x", check=False).returncode == 1


def test_stopping_drains(compose: Compose) -> None:
    """A call that is in progress is answered; the container ends by itself, with its last words."""
    with Client(f"127.0.0.1:{compose.grpc_port}") as client, ThreadPoolExecutor(1) as caller:
        answer = caller.submit(client.classify, [encode(gradient(2000))] * 40, model="mnist")
        compose.wait_until_in_flight()
        compose("stop", "server")
        assert len(answer.result(20).classifications) == 40
    state = json.loads(compose("ps", "--all", "--format", "json", "server").stdout)
    assert (state["State"], state["ExitCode"]) == ("exited", 0)
    lines = compose("logs", "--no-log-prefix", "server").stdout.splitlines()
    # Compose puts a terminal's control sequence before each line.
    events = [json.loads(line[line.index("{") :])["event"] for line in lines]
    assert events[-2:] == ["draining", "stopped"]


def test_training_and_export_in_a_container(compose: Compose) -> None:
    """On drawn digits; the run stays in its volume, the bundle lands in the host's folder."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        data = write_digits(Path(folder) / "data", train=640, test=100)
        models = Path(folder) / "models"
        models.mkdir(mode=0o777)
        models.chmod(0o777)
        compose.environment = {"CONSORT_DATA": str(data), "CONSORT_MODELS": str(models)}
        fast = ["--architecture", "linear", "--members", "2", "--epochs", "1"]
        compose("--profile", "train", "build", "train")
        compose("run", "--rm", "train", "training.fit", "--data", "/data", "--run", "/runs/tiny", *fast)
        export = ["export", "/runs/tiny", "--name", "tiny", "--models", "/models"]
        compose("run", "--rm", "train", *export)
        assert {file.name for file in (models / "tiny/1").iterdir()} == {
            "manifest.json",
            "member-1.onnx",
            "member-2.onnx",
        }
