"""The system's Chromium, and how the tests drive the page in it."""

from __future__ import annotations

import os
import shutil
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page, expect

from examples.draw_digits import STROKES, smooth

VIEWS = ("draw", "layers", "convolution", "uncertainty", "record")
PHONE: dict[str, Any] = {"viewport": {"width": 375, "height": 812}, "has_touch": True, "is_mobile": True}
WITH_BROWSER = os.environ.get("CONSORT_TEST_BROWSER") == "1"
"""Set where a browser must be there, so that its absence is a failure and not a skip."""


def require_chromium() -> str:
    """Path of the browser; skips where there is none, unless one must be there."""
    executable = shutil.which("chromium")
    if executable is None:
        if WITH_BROWSER:
            raise AssertionError("no chromium is installed")
        pytest.skip("no chromium is installed")
    return executable


def draw_digit(page: Page, digit: int) -> None:
    """Draw a digit on the page's sheet with the mouse, as a hand would."""
    box = paper_box(page.locator("#paper"))
    for stroke in STROKES[digit]:
        points = [(box[0] + x * box[2], box[1] + y * box[2]) for x, y in smooth(stroke)]
        page.mouse.move(*points[0])
        page.mouse.down()
        for point in points[::4] + points[-1:]:
            page.mouse.move(*point)
        page.mouse.up()


def paper_box(paper: Locator) -> tuple[float, float, float]:
    """Left, top and side of the sheet, in pixels of the window."""
    box = paper.bounding_box()
    assert box is not None
    return box["x"], box["y"], box["width"]


def choose_example(page: Page, name: str) -> None:
    """Take one of the examples."""
    page.get_by_role("button", name=name).click()


def show_everything(page: Page, view: str) -> None:
    """Open a view with a digit in it, and wait until all that it shows is there."""
    page.locator(f"#tab-{view}").click()
    awaited = {
        "draw": "#time dl",
        "layers": "#maps canvas",
        "convolution": "#softmax input",
        "uncertainty": ".stranger",
        "record": "#live-rate-chart svg",
    }
    expect(page.locator(awaited[view]).first).to_be_visible()


def show_example(page: Page, name: str, view: str) -> None:
    """Take the example of a digit, whose name begins with it, and open a view once it is read as that."""
    choose_example(page, name)
    expect(page.locator("#answer")).to_have_text(name[0])
    show_everything(page, view)


def serious_problems(page: Page) -> list[tuple[str, list[str]]]:
    """What axe-core finds that would keep somebody from using the page, and where."""
    return [
        (one["id"], [node["html"] for node in one["nodes"]][:3])
        for one in Axe().run(page).response["violations"]
        if one["impact"] in ("serious", "critical")
    ]
