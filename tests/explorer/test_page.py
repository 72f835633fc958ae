"""The page in a browser, driven as people drive it."""

from __future__ import annotations

import base64
import re
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Response, Route, expect

from serving.client import Classification, Client
from serving.server import Server
from tests.bundles import write_bundle
from tests.conftest import run_server
from tests.end_to_end.test_containers import free_port
from tests.explorer.chromium import draw_digit, paper_box
from tests.explorer.conftest import ROOT, OpenPage, run_explorer, settings_for
from tests.imaging.test_files import encode, gradient

VIEWS = ("draw", "layers", "convolution", "uncertainty", "record")
PHONE: dict[str, Any] = {"viewport": {"width": 375, "height": 812}, "has_touch": True, "is_mobile": True}
ANSWERED = re.compile(r"/api/classify")
INSIDE = """() => {
  const view = document.querySelector('.view:not([hidden])');
  return [...view.querySelectorAll('button, input, select, a, [tabindex]')]
    .filter((one) => !one.disabled && one.tabIndex >= 0 && one.offsetParent !== null)
    .map((one, index) => (one.dataset.reach = String(index))).length;
}"""


def choose_example(page: Page, name: str) -> None:
    page.get_by_role("button", name=name).click()


def open_view(page: Page, name: str) -> None:
    page.locator(f"#tab-{name}").click()


def show_everything(page: Page, view: str) -> None:
    """Open a view with a digit in it, and wait until all that it shows is there."""
    open_view(page, view)
    awaited = {
        "draw": "#time dl",
        "layers": "#maps canvas",
        "convolution": "#softmax input",
        "uncertainty": ".stranger",
        "record": "#record-members td",
    }
    expect(page.locator(awaited[view]).first).to_be_visible()


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
    with page.expect_response(ANSWERED):
        choose_example(page, "1 dark on light")
    with page.expect_response(ANSWERED) as answered:
        page.locator("#early").check()
        page.locator("#early").uncheck()
    expect(page.locator("#answer")).to_have_text("1")
    found = direct(shipped, answered.value)
    expect(page.locator("#bars .value")).to_have_text([percent(share) for share in found.probabilities.tolist()])
    expect(page.locator("#figures dd:not(.note)")).to_have_text(
        ["6 of 6", f"{found.entropy:.3f} nats", f"{found.mutual_information:.3f} nats"]
    )
    assert found.members is not None
    labels = [f"1: {percent(member.max())}" for member in found.members]
    shown = page.locator("#members .columns").all()
    assert [one.get_attribute("aria-label") for one in shown] == labels


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


def test_a_picture_is_pasted(page: Page) -> None:
    content = base64.b64encode((ROOT / "examples/digits/2-dark-on-light.png").read_bytes()).decode()
    page.evaluate(
        """(content) => {
          const bytes = Uint8Array.from(atob(content), (one) => one.charCodeAt(0));
          const clipboardData = new DataTransfer();
          clipboardData.items.add(new File([bytes], 'two.png', { type: 'image/png' }));
          document.dispatchEvent(new ClipboardEvent('paste', { clipboardData }));
        }""",
        content,
    )
    expect(page.locator("#answer")).to_have_text("2")


def test_layers_are_stepped_through_and_maps_enlarged(page: Page) -> None:
    choose_example(page, "3 dark on light")
    expect(page.locator("#answer")).to_have_text("3")
    show_everything(page, "layers")
    expect(page.locator("#layer-title")).to_have_text("Convolution 1")
    expect(page.locator("#layer-facts")).to_have_text("Conv · 3×3, without padding · 32 maps of 26×26")
    expect(page.locator("#maps canvas")).to_have_count(32)
    expect(page.locator("#filters canvas")).to_have_count(32)
    expect(page.locator("#layer-proof")).to_contain_text("Its probabilities are the server’s")
    page.locator("#layer-list").focus()
    for _ in range(3):
        page.keyboard.press("ArrowDown")
    expect(page.locator("#layer-title")).to_have_text("Convolution 2")
    expect(page.locator("#layer-words")).to_contain_text("Each value sees 5×5 pixels of the input.")
    page.get_by_role("button", name="Enlarge map 1", exact=True).click()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#enlarged-title")).to_have_text("convolution 2, map 2 of 32")
    page.keyboard.press("Escape")
    page.locator("#layer-list").focus()
    page.keyboard.press("End")
    expect(page.locator("#maps .bar.top .value")).to_contain_text("%")
    page.locator("#layer-members label").nth(4).click()
    expect(page.locator("#layer-proof")).to_contain_text("Its probabilities are the server’s")


def test_hiding_parts_shows_which_pixels_matter(page: Page) -> None:
    choose_example(page, "7 dark on light")
    expect(page.locator("#answer")).to_have_text("7")
    show_everything(page, "layers")
    page.locator("#occlusion-run").click()
    expect(page.locator("#occlusion-words")).to_contain_text(re.compile("costs most|No single patch"))
    expect(page.locator("#occlusion")).to_be_visible()


def test_the_arithmetic_of_a_convolution(page: Page) -> None:
    """On a 4x4 picture of 1 to 16, by hand: vertical edges give 2 x 3 rows = 6 everywhere."""
    found = page.evaluate(
        """async () => {
          const { KERNELS, convolve, maxPool, pad, relu, softmax } = await import('/static/convolution.js');
          const picture = { values: new Float32Array(16).map((_, index) => index + 1), height: 4, width: 4 };
          const edges = convolve(picture, KERNELS['vertical edges']);
          const padded = convolve(pad(picture), KERNELS['nothing changes']);
          return {
            edges: [...edges.values],
            padded: [padded.height, padded.width, ...padded.values.slice(0, 5)],
            pooled: [...maxPool(picture, 2).values],
            relu: [...relu({ ...edges, values: Float32Array.from([-1, 2]) }).values],
            softmax: softmax([Math.log(1), Math.log(3)]),
          };
        }"""
    )
    assert found["edges"] == [6, 6, 6, 6]
    assert found["padded"] == [4, 4, 1, 2, 3, 4, 5]
    assert found["pooled"] == [6, 8, 14, 16]
    assert found["relu"] == [0, 2]
    assert found["softmax"] == pytest.approx([0.25, 0.75])


def test_a_kernel_slides_over_the_drawing(page: Page) -> None:
    choose_example(page, "0 light on dark")
    expect(page.locator("#answer")).to_have_text("0")
    show_everything(page, "convolution")
    expect(page.locator("#conv-out-words")).to_have_text("Result, 26×26")
    page.locator("#padding").check()
    expect(page.locator("#conv-out-words")).to_have_text("Result, 28×28")
    page.locator("#pool-size").select_option("4")
    expect(page.locator("#pool-out-words")).to_have_text("After pooling: 7×7")
    for field in page.locator("#kernel input").all():
        field.fill("0")
    expect(page.locator("#conv-sum b")).to_have_text("= 0.00")
    expect(page.locator("#kernel-choice")).to_have_value("my own")
    top = page.locator("#softmax tbody tr").nth(0)
    expect(top.locator(".share")).to_have_text(re.compile(r"^(9\d\.\d\d|100\.00)"))
    top.locator("input").fill("-50")
    expect(top.locator(".share")).to_have_text("0.00\u00a0%")
    page.locator("#softmax-reset").click()
    expect(top.locator(".share")).to_have_text(re.compile(r"^(9\d\.\d\d|100\.00)"))
    page.locator("#conv-play").click()
    expect(page.locator("#conv-play")).to_have_text("Stop")
    page.locator("#conv-play").click()
    expect(page.locator("#conv-play")).to_have_text("Slide")


def test_sweeps_and_strangers_show_when_members_disagree(page: Page) -> None:
    choose_example(page, "7 dark on light")
    expect(page.locator("#answer")).to_have_text("7")
    show_everything(page, "uncertainty")
    expect(page.locator("#sweep-words")).to_contain_text("of 25 are still read as 7.")
    expect(page.locator("#sweep-chart polyline")).to_have_count(7)
    expect(page.locator(".stranger")).to_have_count(14)
    for title, steps in (("Shift", 25), ("Noise", 25)):
        page.locator("#sweep-choice").get_by_label(title).check()
        expect(page.locator("#sweep-words")).to_contain_text(f"of {steps} are still read as 7.")


def test_the_record_shows_figures_versions_and_live_metrics(page: Page) -> None:
    show_everything(page, "record")
    expect(page.locator("#record-figures")).to_contain_text("99.71\u00a0%")
    expect(page.locator("#record-members tbody tr")).to_have_count(6)
    page.get_by_role("button", name="Use mnist-small version 1").click()
    expect(page.locator("#record-title")).to_have_text("Figures of mnist-small, version 1")
    expect(page.locator("#model")).to_have_value("mnist-small/0")
    expect(page.locator("#live-rate")).to_have_text(re.compile(r"^\d"))


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


def test_while_drawing_one_request_is_in_flight_and_the_last_stroke_is_answered(page: Page) -> None:
    flying = 0
    most = 0

    def sent(url: str, change: int) -> None:
        nonlocal flying, most
        if "/api/classify" in url:
            flying += change
            most = max(most, flying)

    page.on("request", lambda request: sent(request.url, 1))
    page.on("requestfinished", lambda request: sent(request.url, -1))
    draw_digit(page, 3)
    expect(page.locator("#answer")).to_have_text("3")
    expect(page.locator("#words")).to_have_text("All six say 3.")
    assert most == 1


def test_a_server_that_goes_and_comes_back_is_said_and_the_drawing_is_kept(open_page: OpenPage) -> None:
    port = free_port()
    with run_explorer(settings_for(target=f"127.0.0.1:{port}")) as at:
        with run_server(ROOT / "models", grpc_port=port, default_model="mnist"):
            page, watched = open_page(at)
            draw_digit(page, 3)
            expect(page.locator("#answer")).to_have_text("3")
        expect(page.locator("#notice")).to_contain_text("The server does not answer")
        expect(page.locator("#notice")).to_contain_text("your drawing is kept")
        page.locator("#early").check()
        with run_server(ROOT / "models", grpc_port=port, default_model="mnist"):
            expect(page.locator("#notice")).to_contain_text("The server answers again.")
            expect(page.locator("#early-words")).to_contain_text("Four of six were asked.")
            page.close()
        watched.forgive_refusals()


def test_a_slow_answer_is_said_and_still_comes(page: Page) -> None:
    held: list[Route] = []
    let_go = threading.Event()
    page.route("**/api/classify*", lambda route: route.continue_() if let_go.is_set() else held.append(route))
    draw_digit(page, 3)
    expect(page.locator("#notice")).to_have_text("Still waiting for the server…")
    let_go.set()
    for route in held:
        route.continue_()
    expect(page.locator("#answer")).to_have_text("3")
    expect(page.locator("#notice")).to_be_hidden()


def test_a_version_that_is_swapped_is_said(open_page: OpenPage, tmp_path: Path) -> None:
    """A server restarts with a second version beside the first: the page follows the latest."""
    port = free_port()
    write_bundle(tmp_path, shape=(1, 28, 28))
    with run_explorer(settings_for(target=f"127.0.0.1:{port}", models=tmp_path)) as at:
        with run_server(tmp_path, grpc_port=port):
            page, watched = open_page(at)
            choose_example(page, "3 dark on light")
            expect(page.locator("#words")).to_contain_text("One of two says")
        write_bundle(tmp_path, version=2, shape=(1, 28, 28))
        with run_server(tmp_path, grpc_port=port):
            expect(page.locator("#notice")).to_contain_text("stub version 2 answers now.")
            offered = ["stub, latest (2)", "stub, version 1", "stub, version 2"]
            expect(page.locator("#model option")).to_have_text(offered)
            page.close()
        watched.forgive_refusals()


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
        found = Axe().run(page).response["violations"]
        serious = [
            (one["id"], [node["html"] for node in one["nodes"]][:3])
            for one in found
            if one["impact"] in ("serious", "critical")
        ]
        assert serious == [], view
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), view


def test_nothing_is_kept(open_page: OpenPage, browser: Browser) -> None:
    """Neither cookies nor anything else that outlives the page."""
    page, _ = open_page()
    draw_digit(page, 1)
    expect(page.locator("#answer")).to_have_text("1")
    assert page.context.cookies() == []
    assert page.evaluate("[localStorage.length, sessionStorage.length]") == [0, 0]
    assert len(browser.contexts) == 1
