"""Takes the pictures of docs/explorer.md: `make screenshots`.

They are of the shipped models, but for those of a unit: what excites it is shown of networks that learn digits
which the project draws, since no image of a data set may be in them.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Literal

from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from benchmarks.explorer import CHROMIUM_ARGUMENTS
from export.bundle import export_bundle
from serving.client import Client
from serving.server import Server
from tests.conftest import run_server
from tests.digits import write_digits
from tests.explorer.chromium import draw_digit
from tests.explorer.conftest import ROOT, run_explorer, settings_for
from training.fit import main as fit
from training.inspect import main as inspect
from training.run import Run

IMAGES = ROOT / "docs/images"
SIZES = {"wide": (1280, 800), "phone": (375, 812)}
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
COLOURS = 160
LIVE_MS = 16_000


def main() -> None:
    """Every view in light and dark, wide and on a phone, and a unit."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=list(CHROMIUM_ARGUMENTS)
        )
        with (
            run_server(ROOT / "models", default_model="mnist", log_level="error") as server,
            run_explorer(settings_for(server)) as address,
        ):
            for page, suffix in open_pages(browser, address):
                expect(page.locator("#words")).to_have_text("All six say 3.")
                take_all(page, suffix, server)
        with tempfile.TemporaryDirectory() as folder:
            take_units(browser, Path(folder))
        browser.close()


def take_units(browser: Browser, folder: Path) -> None:
    """A unit of the first of three members that learn drawn digits."""
    data, run, models = write_digits(folder / "data", train=4000, test=400), folder / "run", folder / "models"
    arguments = ["--data", str(data), "--run", str(run), "--recipe", "small", "--members", "3", "--epochs", "3"]
    fit(arguments)
    inspect([str(run)])
    export_bundle(Run.open(run), "drawn", models)
    with (
        run_server(models, log_level="error") as server,
        run_explorer(settings_for(server, models=models, run=run)) as address,
    ):
        for page, suffix in open_pages(browser, address):
            take_unit(page, suffix)


def open_pages(browser: Browser, address: str) -> Iterator[tuple[Page, str]]:
    """The page with a 3 on it, in each scheme and size, and what its pictures are called by."""
    for scheme in SCHEMES:
        for size, (width, height) in SIZES.items():
            context = browser.new_context(
                viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce"
            )
            page = context.new_page()
            page.goto(address)
            expect(page.locator("#model option")).not_to_have_count(0)
            draw_digit(page, 3)
            expect(page.locator("#answer")).to_have_text("3")
            # asked twice more, now that all is loaded: the last stroke is answered, and in the usual time
            page.locator("#early").check()
            expect(page.locator("#early-words")).not_to_have_text("")
            page.locator("#early").uncheck()
            expect(page.locator("#early-words")).to_have_text("")
            yield page, f"{scheme}-{size}"
            context.close()


def take_unit(page: Page, suffix: str) -> None:
    """The closer look at a map, all of it."""
    page.locator("#tab-layers").click()
    expect(page.locator("#layer-title")).to_have_text("Convolution 1")
    page.locator("#layer-list").get_by_text("convolution 2", exact=True).click()
    page.get_by_role("button", name="Enlarge map 4", exact=True).click()
    page.locator("#hiding-run").click()
    expect(page.locator("#hiding-map")).to_be_visible()
    expect(page.locator("#excited .nine canvas")).to_have_count(9)
    size = page.viewport_size
    assert size is not None
    page.set_viewport_size({"width": size["width"], "height": 1450 if size["width"] < 600 else 960})
    take(page, f"unit-{suffix}", whole=False)


def take_all(page: Page, suffix: str, server: Server) -> None:
    """One picture of each view."""
    take(page, f"draw-{suffix}")
    page.locator("#tab-layers").click()
    page.locator("#occlusion-run").click()
    expect(page.locator("#occlusion")).to_be_visible()
    page.locator("#layer-list").get_by_text("activation 1", exact=True).click()
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


def take(page: Page, name: str, whole: bool = True) -> Path:
    """The whole view, or just the window, in few colours, as a small file."""
    page.mouse.move(0, 0)
    path = IMAGES / f"explorer-{name}.png"
    shot = Image.open(BytesIO(page.screenshot(full_page=whole, animations="disabled"))).convert("RGB")
    shot.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB")
    return path


if __name__ == "__main__":
    main()
