"""How heavy and how quick the explorer's page is: `python -m benchmarks.explorer`.

In the system's Chromium, with a server of its own: the bytes that opening the page loads, uncompressed; the time
from the choice of an example, made as soon as the page has loaded, to its answer; and, while a digit is drawn, the
time from each movement of the pointer to bars that show it, with the requests in between; and, for one map after
the other of a member's last convolution, the time from its choice to its gradients.
"""

from __future__ import annotations

import math
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from playwright.sync_api import Page, Response, sync_playwright
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from benchmarks.servers import run_server

CHROMIUM_ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-sync",
    "--disable-component-update",
    "--disable-background-networking",
)
TIMER = """() => {
  window.timed = [];
  let began = null;
  document.querySelector('#paper').addEventListener('pointermove', () => (began ??= performance.now()), true);
  new MutationObserver(() => {
    if (began !== null) window.timed.push(performance.now() - began);
    began = null;
  }).observe(document.querySelector('#time'), { childList: true });
}"""
FIRST = """() => new Promise((done) => {
  const began = performance.now();
  new MutationObserver(() => done(performance.now() - began))
    .observe(document.querySelector('#time'), { childList: true });
  document.querySelector('#examples button').click();
})"""


GRADIENTS = """() => new Promise((done) => {
  const began = performance.now();
  new MutationObserver((_, observer) => {
    observer.disconnect();
    done(performance.now() - began);
  }).observe(document.querySelector('#gradient-guided-scale'), { childList: true });
  document.querySelector('#enlarged-after').click();
})"""


class PageSettings(BaseSettings):
    """Measure the explorer's page in Chromium."""

    model_config = SettingsConfigDict(
        cli_prog_name="python -m benchmarks.explorer", use_attribute_docstrings=True, cli_kebab_case=True
    )

    strokes: int = Field(100, ge=1)
    """Movements of the pointer to time."""
    loads: int = Field(5, ge=1)
    """Times to open the page."""
    units: int = Field(30, ge=1)
    """Units to look closer at."""


def main() -> None:
    """Print the weight, and median and spread of both times."""
    settings = PageSettings(_cli_parse_args=True)
    with _explorer() as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=list(CHROMIUM_ARGUMENTS)
        )
        weights, firsts = zip(*(_load(browser.new_page(), address) for _ in range(settings.loads)), strict=True)
        page = browser.new_page()
        page.goto(address)
        strokes = _draw(page, settings.strokes)
        gradients = _look_closer(page, settings.units)
        browser.close()
    print(f"page weight: {max(weights) / 1000:.0f} kB, uncompressed, with its examples")
    print(f"first answer after load: {spread(firsts)}")
    print(f"stroke to updated bars: {spread(strokes)}")
    print(f"choice of a unit to its gradients: {spread(gradients)}")


def spread(milliseconds: Sequence[float]) -> str:
    """Median, 95th percentile (nearest rank) and count of times in milliseconds."""
    ranked = sorted(milliseconds)
    late = ranked[math.ceil(0.95 * len(ranked)) - 1]
    return (
        f"{statistics.median(ranked):.0f} ms at the median, {late:.0f} ms at the 95th percentile ({len(ranked)})"
    )


@contextmanager
def _explorer() -> Iterator[str]:
    """A server and an explorer that asks it; gives the page's address."""
    with run_server("--models", "models", "--default-model", "mnist", "--log-format", "json") as server:
        metrics_url = f"http://127.0.0.1:{server.metrics_port}/metrics"
        command = [sys.executable, "-m", "explorer", "--port", "0", "--target", server.target]
        command += ["--metrics-url", metrics_url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603  our own command
            assert process.stdout is not None  # noqa: S101  a pipe was asked for
            said = process.stdout.readline()
            try:
                yield said.removeprefix("Explorer on ").split(",")[0]
            finally:
                process.terminate()


def _load(page: Page, address: str) -> tuple[int, float]:
    """Bytes of everything that the page loads, and milliseconds to its first answer."""
    responses: list[Response] = []
    page.on("response", lambda response: responses.append(response))  # noqa: PLW0108 - Playwright wants a function
    page.goto(address)
    page.locator("#examples img").last.wait_for()
    page.locator("#model option").first.wait_for(state="attached")
    page.wait_for_load_state("networkidle")
    weight = sum(len(response.body()) for response in responses)
    first: float = page.evaluate(FIRST)
    page.close()
    return weight, first


def _draw(page: Page, strokes: int) -> list[float]:
    """Milliseconds from a movement to its bars, for so many movements around the sheet."""
    page.locator("#model option").first.wait_for(state="attached")
    box = page.locator("#paper").bounding_box()
    assert box is not None  # noqa: S101  the sheet is on the page
    page.evaluate(TIMER)
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] * 0.2)
    page.mouse.down()
    for number in range(strokes):
        angle = 2 * math.pi * number / strokes
        x = box["x"] + box["width"] * (0.5 + 0.2 * math.sin(angle))
        y = box["y"] + box["height"] * (0.5 - 0.3 * math.cos(angle))
        page.mouse.move(x, y)
        while page.evaluate("window.timed.length") <= number:
            page.wait_for_timeout(5)
    page.mouse.up()
    timed: list[float] = page.evaluate("window.timed")
    return timed[:strokes]


def _look_closer(page: Page, units: int) -> list[float]:
    """Milliseconds from the choice of a unit to its gradients; the first, which makes the way back, apart."""
    page.locator("#tab-layers").click()
    page.locator("#layer-list span", has_text="convolution").last.click()
    page.wait_for_load_state("networkidle")
    page.get_by_role("button", name="Enlarge map 1", exact=True).click()
    page.wait_for_load_state("networkidle")
    return [float(page.evaluate(GRADIENTS)) for _ in range(units)]


if __name__ == "__main__":
    main()
