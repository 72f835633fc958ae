"""Everybody can use the page: by keyboard alone, on a phone, in the dark, with a screen reader."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.explorer.chromium import PHONE, VIEWS, choose_example, paper_box, serious_problems, show_everything
from tests.explorer.conftest import MNIST_VERSION, SMALL_VERSION, OpenPage

INSIDE = """() => {
  const view = document.querySelector('.view:not([hidden])');
  return [...view.querySelectorAll('button, input, select, a, [tabindex]')]
    .filter((one) => !one.disabled && one.tabIndex >= 0 && one.offsetParent !== null)
    .map((one, index) => (one.dataset.reach = String(index))).length;
}"""


def test_fingers_draw_on_a_phone_without_scrolling_it(open_page: OpenPage) -> None:
    page, _ = open_page(**PHONE)
    left, top, side = paper_box(page.locator("#paper"))
    touches = page.context.new_cdp_session(page)
    points = [(left + side * 0.5, top + side * share) for share in (0.2, 0.35, 0.5, 0.65, 0.8)]
    for kind, touched in [("touchStart", points[0]), *(("touchMove", point) for point in points[1:])]:
        touches.send(
            "Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": touched[0], "y": touched[1]}]}
        )
    touches.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    expect(page.locator("#answer")).to_have_text("1")
    assert page.evaluate("scrollY") == 0


def test_the_keyboard_alone_draws_and_reaches_everything(page: Page) -> None:
    page.locator("#model").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    expect(page.locator("#paper")).to_be_focused()
    for _ in range(10):
        page.keyboard.press("ArrowUp")
    page.keyboard.press("Space")
    for _ in range(5):
        page.keyboard.press("Shift+ArrowDown")
    page.keyboard.press("Space")
    expect(page.locator("#answer")).to_have_text("1")
    for view in VIEWS:
        show_everything(page, view)
        reachable = page.evaluate(INSIDE)
        page.locator(f"#tab-{view}").focus()
        reached: set[str] = set()
        for _ in range(reachable + 1):
            page.keyboard.press("Tab")
            reached |= set(page.evaluate("[document.activeElement.dataset.reach ?? '']"))
        radios = page.evaluate(
            "document.querySelectorAll('.view:not([hidden]) input[type=radio]:not(:checked)').length"
        )
        assert len(reached - {""}) >= reachable - radios, view  # arrow keys choose among radio buttons
    page.locator("#tab-record").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#tab-draw")).to_be_focused()
    expect(page.locator("#view-draw")).to_be_visible()


def test_the_record_keeps_the_keyboards_place_and_names_its_charts(page: Page) -> None:
    """The row of the version that was chosen has no button any more: its list's heading is next to it."""
    show_everything(page, "record")
    for name in ("Images a second", "Half of the calls within", "99 of 100 within"):
        expect(page.get_by_role("img", name=name, exact=True)).to_be_visible()
    page.get_by_role("button", name=f"Use mnist-small version {SMALL_VERSION}").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#versions-title")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name=f"Use mnist version {MNIST_VERSION}")).to_be_focused()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("options", [{"viewport": {"width": 1280, "height": 900}}, PHONE], ids=["wide", "phone"])
def test_axe_finds_nothing_serious_and_nothing_scrolls_sideways(
    open_page: OpenPage, scheme: str, options: dict[str, Any]
) -> None:
    page, _ = open_page(color_scheme=scheme, **options)
    page.locator("#early").check()
    choose_example(page, "3 dark on light")
    expect(page.locator("#answer")).to_have_text("3")
    for view in VIEWS:
        show_everything(page, view)
        assert serious_problems(page) == [], view
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), view
