"""Draw and see, in a browser, as people do it."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, Response, expect

from serving.client import Classification, Client
from serving.server import Server
from tests.bundles import write_bundle
from tests.conftest import run_server
from tests.explorer.chromium import choose_example, draw_digit
from tests.explorer.conftest import ROOT, OpenPage, run_explorer, settings_for
from tests.imaging.test_files import encode, gradient

ANSWERED = re.compile(r"/api/classify")


def direct(server: Server, reply: Response) -> Classification:
    """What the server says of the very pixels that a reply to the page names."""
    pixels = base64.b64decode(reply.json()["input"]["pixels"])
    with Client(f"127.0.0.1:{server.grpc_port}") as client:
        images = np.frombuffer(pixels, np.uint8).reshape(1, 1, 28, 28)
        return client.classify(images, members=True).classifications[0]


def percent(share: float) -> str:
    return f"{share * 100:.2f}\u00a0%"


def test_a_3_drawn_with_the_mouse_is_read_as_a_3(page: Page) -> None:
    draw_digit(page, 3)
    expect(page.locator("#answer")).to_have_text("3")
    expect(page.locator("#words")).to_have_text("All six say 3.")
    expect(page.locator("#time")).to_contain_text("server: all members")


def test_numbers_on_the_page_are_those_of_a_direct_call(page: Page, shipped: Server) -> None:
    with page.expect_response(ANSWERED) as answered:
        choose_example(page, "1 dark on light")
    expect(page.locator("#answer")).to_have_text("1")
    found = direct(shipped, answered.value)
    expect(page.locator("#bars .value")).to_have_text([percent(share) for share in found.probabilities.tolist()])
    expect(page.locator("#figures dd:not(.note)")).to_have_text(
        ["6 of 6", f"{found.entropy:.3f} nats", f"{found.mutual_information:.3f} nats"]
    )
    assert found.members is not None
    for index, member in enumerate(found.members):
        columns = page.locator("#members .columns").nth(index)
        expect(columns).to_have_attribute("aria-label", f"1: {percent(member.max())}")


def test_what_the_networks_see_is_shown_pixel_by_pixel(page: Page) -> None:
    """And with centring off it is another picture."""
    with page.expect_response(ANSWERED):
        choose_example(page, "3 light on dark")
    expect(page.locator("#seen-words")).to_contain_text("Cut out, scaled")
    pictures = []
    for centred in (False, True):
        with page.expect_response(ANSWERED) as answered:
            page.locator("#centre").set_checked(centred)
        expect(page.locator("#seen-words")).to_contain_text("Cut out" if centred else "Only scaled down")
        pictures.append(base64.b64decode(answered.value.json()["input"]["pixels"]))
        shown = page.evaluate(
            "[...document.querySelector('#seen').getContext('2d').getImageData(0, 0, 28, 28).data]"
        )
        assert shown[::4] == list(pictures[-1])
    assert pictures[0] != pictures[1]


def test_early_stop_leaves_members_unasked_and_says_so(page: Page) -> None:
    page.locator("#early").check()
    choose_example(page, "7 light on dark")
    expect(page.locator("#early-words")).to_have_text(
        "Four of six were asked. Then the class was settled: the other two could not have changed it."
    )
    expect(page.locator(".member.ran")).to_have_count(4)
    expect(page.locator(".member:not(.ran) b")).to_have_text(["not asked", "not asked"])


def test_undo_clear_and_brush(page: Page) -> None:
    expect(page.locator("#undo")).to_be_disabled()
    draw_digit(page, 1)
    expect(page.locator("#answer")).not_to_have_text("–")
    page.locator("#undo").click()
    page.locator("#undo").click()
    expect(page.locator("#answer")).to_have_text("–")
    expect(page.locator("#undo")).to_be_disabled()
    page.locator("#brush").fill("40")
    draw_digit(page, 8)
    expect(page.locator("#answer")).to_have_text("8")
    page.locator("#clear").click()
    expect(page.locator("#words")).to_have_text("Draw a digit, or choose an example.")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("evil.svg", b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>", "no PNG, JPEG, WebP or BMP"),
        ("torn.png", encode(gradient(64))[:-60], "it is a damaged PNG file of 64x64 pixels."),
        ("huge.png", b"\x89PNG" + bytes(9 * 2**20), "This is larger than the limit of 8,388,608 bytes."),
    ],
)
def test_a_bad_picture_is_refused_with_a_sentence(
    open_page: OpenPage, name: str, content: bytes, message: str
) -> None:
    page, watched = open_page()
    page.locator("#file").set_input_files({"name": name, "mimeType": "image/png", "buffer": content})
    expect(page.locator("#refusal")).to_contain_text(message)
    expect(page.locator("#answer")).to_have_text("–")
    watched.forgive_refusals()


def test_a_picture_is_opened_and_drawn_over(page: Page) -> None:
    file = ROOT / "examples/digits/5-light-on-dark.png"
    page.locator("#file").set_input_files(file)
    expect(page.locator("#answer")).to_have_text("5")
    with page.expect_response(ANSWERED):
        page.locator("#paper").click()
    page.locator("#undo").click()
    expect(page.locator("#answer")).to_have_text("5")


def test_a_pasted_picture_that_is_refused_is_said_in_every_view(open_page: OpenPage) -> None:
    page, watched = open_page()
    page.locator("#tab-record").click()
    page.evaluate(
        """() => {
          const data = new DataTransfer();
          data.items.add(new File(['no picture'], 'torn.png', { type: 'image/png' }));
          document.dispatchEvent(new ClipboardEvent('paste', { clipboardData: data }));
        }"""
    )
    expect(page.locator("#notice")).to_contain_text("no PNG, JPEG, WebP or BMP")
    watched.forgive_refusals()


def test_centring_is_as_it_was_after_a_look_at_a_model_of_colours(open_page: OpenPage, tmp_path: Path) -> None:
    write_bundle(tmp_path, name="colour", shape=(3, 28, 28))
    write_bundle(tmp_path, name="grey", shape=(1, 28, 28))
    with run_server(tmp_path) as server, run_explorer(settings_for(server, models=tmp_path)) as at:
        page, _ = open_page(at)
        choose_example(page, "3 dark on light")
        expect(page.locator("#seen-words")).to_contain_text("28×28 colour pixels, 0 to 255. Only scaled down")
        page.locator("#model").select_option("grey/0")
        expect(page.locator("#seen-words")).to_contain_text("28×28 grey pixels, 0 to 255. Cut out, scaled")
        expect(page.locator("#centre")).to_be_checked()
        expect(page.locator("#centre")).to_be_enabled()


@pytest.mark.parametrize("way", ["paste", "drop"])
def test_a_picture_is_pasted_or_dropped(page: Page, way: str) -> None:
    content = base64.b64encode((ROOT / "examples/digits/2-dark-on-light.png").read_bytes()).decode()
    page.evaluate(
        """([content, way]) => {
          const bytes = Uint8Array.from(atob(content), (one) => one.charCodeAt(0));
          const data = new DataTransfer();
          data.items.add(new File([bytes], 'two.png', { type: 'image/png' }));
          if (way === 'paste') document.dispatchEvent(new ClipboardEvent('paste', { clipboardData: data }));
          else {
            const event = new DragEvent('drop', { dataTransfer: data, bubbles: true, cancelable: true });
            document.querySelector('#paper').dispatchEvent(event);
          }
        }""",
        [content, way],
    )
    expect(page.locator("#answer")).to_have_text("2")


def test_nothing_is_kept(open_page: OpenPage, browser: Browser) -> None:
    """Neither cookies nor anything else that outlives the page."""
    page, _ = open_page()
    draw_digit(page, 1)
    expect(page.locator("#answer")).to_have_text("1")
    assert page.context.cookies() == []
    assert page.evaluate("[localStorage.length, sessionStorage.length]") == [0, 0]
    assert len(browser.contexts) == 1
