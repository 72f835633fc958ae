"""A server of the shipped models, an explorer that asks it, and a browser to look with."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from playwright.sync_api import Browser, Page, expect, sync_playwright
from starlette.testclient import TestClient

from benchmarks.explorer import CHROMIUM_ARGUMENTS
from explorer.__main__ import listen
from explorer.app import build_app
from explorer.settings import ExplorerSettings
from export.bundle import export_bundle
from serving.server import Server
from tests.bundles import write_bundle
from tests.conftest import run_server
from tests.explorer.chromium import require_chromium
from training.run import Run

ROOT = Path(__file__).parents[2]
MNIST_VERSION, SMALL_VERSION = (
    max(int(folder.name) for folder in (ROOT / "models" / name).iterdir()) for name in ("mnist", "mnist-small")
)
"""Of the shipped models, those that answer where no version is named."""
PATIENCE_MS = 30_000
expect.set_options(timeout=PATIENCE_MS)


def settings_for(server: Server | None = None, **others: Any) -> ExplorerSettings:
    """Settings of an explorer on a free port that asks a server, or what else `others` name."""
    asked = (
        {
            "target": f"127.0.0.1:{server.grpc_port}",
            "metrics_url": f"http://127.0.0.1:{server.metrics_port}/metrics",
        }
        if server
        else {}
    )
    return ExplorerSettings(
        **{
            "port": 0,
            **asked,
            "models": ROOT / "models",
            "examples": ROOT / "examples/digits",
            "timeout_seconds": 30,
            "requests_per_second": 1000,
            **others,
        }
    )


@contextmanager
def run_explorer(settings: ExplorerSettings) -> Iterator[str]:
    """An explorer in a thread; gives its address."""
    listening = listen(settings)
    server = uvicorn.Server(uvicorn.Config(build_app(settings), log_level="error", access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


@pytest.fixture(scope="session")
def shipped() -> Iterator[Server]:
    """A server of the models that ship."""
    with run_server(ROOT / "models", default_model="mnist") as server:
        yield server


@pytest.fixture
def http(shipped: Server) -> Iterator[TestClient]:
    """The explorer without a browser."""
    with TestClient(build_app(settings_for(shipped))) as client:
        yield client


@pytest.fixture(scope="session")
def address(shipped: Server) -> Iterator[str]:
    """An explorer that asks the shipped models."""
    with run_explorer(settings_for(shipped)) as address:
        yield address


@pytest.fixture(scope="session")
def inspected_bundle(inspected_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with `digits`, exported from the run that was looked into, beside the `stub` of no run."""
    models = tmp_path_factory.mktemp("inspected-models")
    export_bundle(Run.open(inspected_run), "digits", models)
    write_bundle(models, shape=(1, 28, 28))
    return models


@pytest.fixture(scope="session")
def inspected_address(inspected_bundle: Path, inspected_run: Path) -> Iterator[str]:
    """An explorer that was started with the run of the model that it shows."""
    with (
        run_server(inspected_bundle, default_model="digits") as server,
        run_explorer(settings_for(server, models=inspected_bundle, run=inspected_run)) as address,
    ):
        yield address


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The system's Chromium."""
    executable = require_chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=list(CHROMIUM_ARGUMENTS))
        yield browser
        browser.close()


@dataclass
class Watched:
    """What a page did besides what was asked of it.

    Attributes:
        requests: Every address that it asked for.
        complaints: Errors on its console, and exceptions that nothing caught.
    """

    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def forgive_refusals(self) -> None:
        """Chromium reports replies of 400 and above as errors; where they were asked for, they are none."""
        self.complaints = [said for said in self.complaints if "Failed to load resource" not in said]


OpenPage = Callable[..., tuple[Page, Watched]]


@pytest.fixture
def open_page(browser: Browser, address: str) -> Iterator[OpenPage]:
    """Opens the explorer's page; afterwards, none may have complained or asked another host."""
    opened: list[tuple[Page, Watched]] = []

    def open_page(at: str = address, **options: Any) -> tuple[Page, Watched]:
        """A page with its examples on it, and what it does from now on."""
        page, watched = browser.new_context(**options).new_page(), Watched()
        page.set_default_timeout(PATIENCE_MS)
        page.on("request", lambda request: watched.requests.append(request.url))
        page.on("console", lambda said: watched.complaints.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: watched.complaints.append(str(error)))
        opened.append((page, watched))
        page.goto(at)
        expect(page.locator("#examples button")).to_have_count(20)
        expect(page.locator("#model option")).not_to_have_count(0)
        return page, watched

    yield open_page
    for page, _ in opened:
        page.context.close()
    for _, watched in opened:
        assert watched.complaints == []
        assert [url for url in watched.requests if not url.startswith("http://127.0.0.1:")] == []


@pytest.fixture
def page(open_page: OpenPage) -> Page:
    """The explorer's page in a wide window."""
    return open_page(viewport={"width": 1280, "height": 900})[0]
