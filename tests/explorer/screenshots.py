"""Takes the pictures of docs/explorer.md: `python -m tests.explorer.screenshots`, or `make screenshots`."""

from __future__ import annotations

import shutil
import threading
from io import BytesIO
from pathlib import Path
from typing import Literal

from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

from benchmarks.explorer import CHROMIUM_ARGUMENTS
from serving.client import Client
from serving.server import Server
from tests.conftest import run_server
from tests.explorer.chromium import draw_digit
from tests.explorer.conftest import ROOT, run_explorer, settings_for

IMAGES = ROOT / "docs/images"
SIZES = {"wide": (1280, 800), "phone": (375, 812)}
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
COLOURS = 160
LIVE_MS = 16_000


def main() -> None:
    """Every view in light and dark, wide and on a phone."""
    with (
        run_server(ROOT / "models", default_model="mnist", log_level="error") as server,
        run_explorer(settings_for(server)) as address,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=list(CHROMIUM_ARGUMENTS)
        )
        for scheme in SCHEMES:
            for size, (width, height) in SIZES.items():
                context = browser.new_context(
                    viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce"
                )
                page = context.new_page()
                page.goto(address)
                expect(page.locator("#model option")).not_to_have_count(0)
                draw_digit(page, 3)
                expect(page.locator("#words")).to_have_text("All six say 3.")
                take_all(page, f"{scheme}-{size}", server)
                context.close()
        browser.close()


def take_all(page: Page, suffix: str, server: Server) -> None:
    """One picture of each view."""
    take(page, f"draw-{suffix}")
    page.locator("#tab-layers").click()
    page.locator("#occlusion-run").click()
    expect(page.locator("#occlusion")).to_be_visible()
    page.locator("#layer-list").focus()
    page.keyboard.press("ArrowDown")
    expect(page.locator("#layer-title")).to_have_text("Activation 1")
    take(page, f"layers-{suffix}")
    page.locator("#tab-convolution").click()
    expect(page.locator("#softmax input").first).to_be_visible()
    take(page, f"convolution-{suffix}")
    page.locator("#tab-uncertainty").click()
    expect(page.locator(".stranger").first).to_be_visible()
    expect(page.locator("#sweep-chart svg")).to_be_visible()
    take(page, f"uncertainty-{suffix}")
    page.locator("#tab-record").click()
    with some_traffic(server):
        page.wait_for_timeout(LIVE_MS)
    take(page, f"record-{suffix}")


class some_traffic:  # noqa: N801 - reads as what it is: with some_traffic(server)
    """Calls of a varying number of images in the background, so that the live charts have something to show."""

    def __init__(self, server: Server) -> None:
        self._target = f"127.0.0.1:{server.grpc_port}"
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._call)

    def __enter__(self) -> None:
        """Begin."""
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        """End."""
        self._over.set()
        self._thread.join()

    def _call(self) -> None:
        files = sorted((ROOT / "examples/digits").glob("*.png"))
        with Client(self._target) as client:
            count = 0
            while not self._over.wait(0.15):
                count = count % len(files) + 1
                client.classify(files[:count])


def take(page: Page, name: str) -> Path:
    """The whole view, in few colours, as a small file."""
    page.mouse.move(0, 0)
    path = IMAGES / f"explorer-{name}.png"
    shot = Image.open(BytesIO(page.screenshot(full_page=True, animations="disabled"))).convert("RGB")
    shot.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB")
    return path


if __name__ == "__main__":
    main()
