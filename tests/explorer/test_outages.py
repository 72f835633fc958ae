"""The server goes, comes back, is slow, or has another version: the page says so and goes on."""

from __future__ import annotations

import threading
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.bundles import write_bundle
from tests.conftest import run_server
from tests.end_to_end.test_containers import free_port
from tests.explorer.chromium import choose_example, draw_digit
from tests.explorer.conftest import ROOT, OpenPage, run_explorer, settings_for


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


@pytest.mark.parametrize("lost", ["/static/words.js", "/api/page"])
def test_a_page_that_did_not_arrive_whole_says_so_and_is_loaded_again(
    browser: Browser, address: str, lost: str
) -> None:
    page = browser.new_page()
    to_lose = [lost, "/"]  # then, once, whether the explorer answers

    def pass_on(route: Route) -> None:
        asked = urlsplit(route.request.url).path
        if to_lose and asked == to_lose[0] and (asked != "/" or not route.request.is_navigation_request()):
            to_lose.pop(0)
            route.abort()
        else:
            route.continue_()

    page.route("**/*", pass_on)
    page.goto(address)
    expect(page.locator("#notice")).to_contain_text("The page did not arrive whole")
    expect(page.locator("#examples button")).to_have_count(20)
    expect(page.locator("#notice")).to_be_hidden()
    assert to_lose == []
    page.close()


def test_an_example_that_cannot_be_fetched_is_said_where_a_refused_picture_is(open_page: OpenPage) -> None:
    page, watched = open_page()
    page.route("**/examples/*", lambda route: route.abort())
    choose_example(page, "3 dark on light")
    expect(page.locator("#refusal")).to_have_text("The explorer itself does not answer.")
    page.unroute("**/examples/*")
    choose_example(page, "3 dark on light")
    expect(page.locator("#answer")).to_have_text("3")
    expect(page.locator("#refusal")).to_be_hidden()
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
    """A server restarts with a second version; it serves the latest alone, as by default, and the page follows."""
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
            expect(page.locator("#model option")).to_have_text(["stub, latest (2)"])
            page.close()
        watched.forgive_refusals()


def test_a_version_that_goes_live_while_the_page_is_open_is_said_and_the_one_before_can_still_be_asked(
    open_page: OpenPage, tmp_path: Path
) -> None:
    """The server keeps two and never stops: the page finds out by itself."""
    models = tmp_path / "models"
    write_bundle(models, shape=(1, 28, 28))
    with (
        run_server(models, latest_versions=2, watch_seconds=0.1) as server,
        run_explorer(settings_for(server, models=models)) as at,
    ):
        page, _ = open_page(at)
        choose_example(page, "3 dark on light")
        expect(page.locator("#words")).to_contain_text("One of two says")
        write_bundle(tmp_path / "elsewhere", version=2, shape=(1, 28, 28)).rename(models / "stub/2")
        expect(page.locator("#notice")).to_contain_text("stub version 2 answers now.")
        offered = ["stub, latest (2)", "stub, version 1", "stub, version 2"]
        expect(page.locator("#model option")).to_have_text(offered)
        page.locator("#model").select_option("stub/1")
        page.locator("#tab-record").click()
        expect(page.locator("#record-title")).to_have_text("Figures of stub, version 1")
