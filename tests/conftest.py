"""Fixtures that several test files share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

from serving.client import Client
from serving.server import Server
from serving.settings import ServerSettings
from tests.bundles import write_bundle
from tests.digits import write_digits
from training import fit, inspect, mnist

StartServer = Callable[..., Server]
NETWORK = ("tests/end_to_end/test_containers.py", "tests/explorer/")
"""Tests that change the host's network, and those of a browser, which gives up requests when it changes."""


class Scheduling(LoadFileScheduling):  # type: ignore[misc]  # pytest-xdist ships no types
    """Files are shared out among the workers; those of `NETWORK` go to one, and never run side by side."""

    def _split_scope(self, nodeid: str) -> str:
        return "network" if nodeid.startswith(NETWORK) else str(super()._split_scope(nodeid))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling:
    """Called by pytest-xdist where tests run in several processes."""
    return Scheduling(config, log)


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of whoever runs the tests decides nothing, and no GPU learns: it promises no equal bits."""
    for name in [name for name in os.environ if name.startswith("CONSORT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A models folder with one bundle of two stub members that disagree."""
    write_bundle(tmp_path / "models")
    return tmp_path / "models"


@contextmanager
def run_server(models: Path, **settings: Any) -> Iterator[Server]:
    """A server of a models folder, on free ports unless the settings name others."""
    ports = {"grpc_port": 0, "metrics_port": 0}
    server = Server(ServerSettings(models=models, host="127.0.0.1", **(ports | settings)))
    server.start()
    try:
        yield server
    finally:  # a test that fails leaves no call waiting, which would keep its process from ending
        server.drain()
        server.stop()


@pytest.fixture
def start_server() -> Iterator[StartServer]:
    """Starts servers on free ports; stops them after the test."""
    with ExitStack() as servers:
        yield lambda models, **settings: servers.enter_context(run_server(models, **settings))


@pytest.fixture(scope="session")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client of a server of the stub bundle; tests that ask for it leave both as they were."""
    folder = tmp_path_factory.mktemp("models")
    write_bundle(folder)
    with run_server(folder) as server, Client(f"127.0.0.1:{server.grpc_port}") as client:
        yield client


@pytest.fixture(scope="session")
def drawn_digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 640 training and 200 test digits drawn by the project, as MNIST's files."""
    return write_digits(tmp_path_factory.mktemp("drawn"), train=640, test=200)


@pytest.fixture(scope="session")
def inspected_run(tmp_path_factory: pytest.TempPathFactory, drawn_digits: Path) -> Path:
    """The folder of a run of one briefly trained member, looked into; tests that ask for it leave it as it was."""
    folder = tmp_path_factory.mktemp("inspected") / "run"
    brief = ["--recipe", "small", "--members", "1", "--epochs", "2", "--precision", "float32", "--threads", "1"]
    assert fit.main(["--data", str(drawn_digits), "--run", str(folder), *brief]) == 0
    assert inspect.main([str(folder), "--most-dense-units", "64"]) == 0
    return folder


@pytest.fixture(scope="session")
def real_mnist() -> Path:
    """The folder of the real MNIST files, where there is one."""
    folder = Path(os.environ.get("CONSORT_DATA", "data/mnist")).resolve()
    if not all((folder / name).exists() for name in mnist.SHA256):
        pytest.skip(f"MNIST is not in {folder}; name its folder with CONSORT_DATA")
    return folder
