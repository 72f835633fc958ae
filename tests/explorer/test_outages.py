"""The server goes, comes back, is slow, or has another version: the page says so and goes on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
from playwright.sync_api import Browser, Page, Route, expect

from serving.client import Client
from serving.labels import write_labels
from serving.server import Server
from tests.bundles import StubMember, write_bundle
from tests.conftest import run_server
from tests.end_to_end.test_containers import free_port
from tests.explorer.chromium import choose_example, draw_digit, show_everything, show_example
from tests.explorer.conftest import ROOT, SMALL_VERSION, OpenPage, run_explorer, settings_for
from tests.serving.test_server import wait_for


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


def lose_first(page: Page, path: str) -> None:
    """The first request of a path is lost, and those after it are answered."""
    page.route(f"**{path}*", lambda route: route.abort(), times=1)


def hold(page: Page, path: str, times: int | None = None) -> list[Route]:
    """Requests of a path wait here, the first so many or all of them, until the test lets them go on."""
    held: list[Route] = []

    def keep(route: Route) -> None:
        held.append(route)

    page.route(f"**{path}*", keep, times=times)
    return held


@pytest.mark.parametrize("path", ["/api/classify", "/api/models"])
def test_an_answer_that_did_not_arrive_whole_is_said_and_asked_for_again(page: Page, path: str) -> None:
    """Neither the drawing nor the watch over the server stands still after it."""
    page.route(f"**{path}*", lambda route: route.fulfill(body='{"model'))
    draw_digit(page, 3)
    expect(page.locator("#notice")).to_contain_text("The answer did not arrive whole. Trying again every second")
    page.unroute(f"**{path}*")
    expect(page.locator("#notice")).to_contain_text("The server answers again.")
    expect(page.locator("#words")).to_have_text("All six say 3.")


def test_a_question_that_failed_is_asked_again_although_others_were_answered(open_page: OpenPage) -> None:
    page, watched = open_page()
    choose_example(page, "7 dark on light")
    expect(page.locator("#answer")).to_have_text("7")
    lose_first(page, "/api/batch")
    page.locator("#tab-uncertainty").click()
    expect(page.locator(".stranger")).to_have_count(14)
    expect(page.locator("#sweep-words")).to_contain_text("of 25 are still read as 7.")
    watched.forgive_refusals()


@contextmanager
def somebody_hasty(address: str) -> Iterator[None]:
    """Requests from this machine, one after the other without a pause; enters once they are refused."""
    refused = threading.Event()
    done = threading.Event()

    def ask() -> None:
        with httpx2.Client() as client:
            while not done.is_set():
                if client.get(f"{address}/api/page").status_code == httpx2.codes.TOO_MANY_REQUESTS:
                    refused.set()

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        assert refused.wait(30)
        yield
    finally:
        done.set()
        asking.join()


def test_what_the_explorer_refuses_for_coming_too_fast_is_answered_a_moment_later(
    open_page: OpenPage, shipped: Server
) -> None:
    with run_explorer(settings_for(shipped, requests_per_second=3)) as at:
        page, watched = open_page(at)
        choose_example(page, "3 dark on light")
        expect(page.locator("#answer")).to_have_text("3")
        with somebody_hasty(at):
            page.locator("#early").check()
            expect(page.locator("#notice")).to_contain_text("requests a second came from here")
        expect(page.locator("#early-words")).to_contain_text("Four of six were asked.")
        page.close()
    watched.forgive_refusals()


def test_layers_come_although_the_first_request_for_them_is_lost(open_page: OpenPage) -> None:
    page, watched = open_page()
    choose_example(page, "3 dark on light")
    expect(page.locator("#answer")).to_have_text("3")
    lose_first(page, "/api/layers")
    page.locator("#tab-layers").click()
    expect(page.locator("#layer-proof")).to_contain_text("Its probabilities are the server’s")
    watched.forgive_refusals()


def test_a_softmax_without_its_numbers_says_why(open_page: OpenPage) -> None:
    page, watched = open_page()
    choose_example(page, "3 dark on light")
    expect(page.locator("#answer")).to_have_text("3")
    lose_first(page, "/api/activations")
    page.locator("#tab-convolution").click()
    expect(page.locator("#softmax-words")).to_have_text("The explorer itself does not answer.")
    page.locator("#softmax-reset").click()
    expect(page.locator("#softmax-words")).to_be_empty()
    watched.forgive_refusals()


def test_a_unit_is_shown_although_the_request_of_the_one_before_is_lost(
    open_page: OpenPage, inspected_address: str
) -> None:
    page, watched = open_page(inspected_address)
    choose_example(page, "3 dark on light")
    expect(page.locator("#answer")).not_to_have_text("–")
    show_everything(page, "layers")
    held = hold(page, "/api/excited", times=1)
    with page.expect_request("**/api/excited*"):
        page.get_by_role("button", name="Enlarge map 1", exact=True).click()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#enlarged-title")).to_contain_text("map 2 of")
    held.pop().abort()
    expect(page.locator("#excited-words")).to_contain_text("Filter 2 of convolution 1")
    expect(page.locator("#excited-refusal")).to_be_hidden()
    watched.forgive_refusals()


def test_gradients_that_arrive_late_do_not_replace_what_is_said_of_the_input(page: Page) -> None:
    show_example(page, "3 dark on light", "layers")
    held = hold(page, "/api/gradients", times=1)
    with page.expect_request("**/api/gradients*"):
        page.get_by_role("button", name="Enlarge map 1", exact=True).click()
    page.keyboard.press("Escape")
    page.locator("#layer-list").focus()
    page.keyboard.press("Home")
    expect(page.locator("#layer-title")).to_have_text("Input, normalized")
    page.get_by_role("button", name="Enlarge map 1", exact=True).click()
    expect(page.locator("#gradient-refusal")).to_contain_text("This is the input itself")
    with page.expect_response("**/api/gradients*") as late:
        held.pop().continue_()
    late.value.finished()
    page.evaluate("new Promise((done) => setTimeout(done, 100))")  # time enough to paint it
    expect(page.locator("#gradient-refusal")).to_contain_text("This is the input itself")
    expect(page.locator("#gradients")).to_be_hidden()


def test_arrow_keys_before_the_layers_are_there_do_nothing(page: Page) -> None:
    choose_example(page, "3 dark on light")
    expect(page.locator("#answer")).to_have_text("3")
    held = hold(page, "/api/layers", times=1)
    with page.expect_request("**/api/layers*"):
        page.locator("#tab-layers").click()
    page.locator("#layer-list").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("End")
    held.pop().continue_()
    expect(page.locator("#layer-title")).to_have_text("Convolution 1")


@pytest.mark.parametrize("newer", ["picture", "stroke"])
def test_a_picture_that_arrives_late_does_not_replace_what_is_newer(page: Page, newer: str) -> None:
    held = hold(page, "/api/classify", times=1)
    with page.expect_request("**/api/classify*"):
        choose_example(page, "3 dark on light")
    if newer == "picture":
        choose_example(page, "7 dark on light")
    else:
        draw_digit(page, 7)
    expect(page.locator("#answer")).to_have_text("7")
    with page.expect_response("**/api/classify*"):
        held.pop().continue_()
    with page.expect_response("**/api/classify*"):  # whatever is on the sheet now
        page.locator("#early").check()
    expect(page.locator("#early-words")).not_to_be_empty()
    expect(page.locator("#answer")).to_have_text("7")


def test_a_late_answer_of_the_model_before_is_not_shown(page: Page) -> None:
    held = hold(page, "/api/classify")
    with page.expect_request("**/api/classify*"):
        page.locator("#paper").click()
    page.locator("#tab-record").click()
    page.get_by_role("button", name=f"Use mnist-small version {SMALL_VERSION}").click()
    expect(page.locator("#record-title")).to_have_text(f"Figures of mnist-small, version {SMALL_VERSION}")
    with page.expect_request(f"**/api/classify?name=mnist-small&version={SMALL_VERSION}&*"):
        held.pop().continue_()
    expect(page.locator("#answer")).to_have_text("–")
    held.pop().continue_()
    expect(page.locator("#answer")).not_to_have_text("–")


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
            expect(page.locator("#model option")).to_have_text(["stub, default (2)"])
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
        offered = ["stub, default (2)", "stub, version 1", "stub, version 2"]
        expect(page.locator("#model option")).to_have_text(offered)
        page.locator("#model").select_option("stub/1")
        page.locator("#tab-record").click()
        expect(page.locator("#record-title")).to_have_text("Figures of stub, version 1")
        write_bundle(tmp_path / "elsewhere", name="other", shape=(1, 28, 28)).parent.rename(models / "other")
        expect(page.locator("#model option")).to_have_text(["other, default (1)", *offered])
        expect(page.locator("#versions")).to_contain_text("other version 1")


def test_a_version_that_is_unloaded_between_two_looks_is_left_for_the_latest_of_the_same_model(
    open_page: OpenPage, tmp_path: Path
) -> None:
    """The default is another model; the drawing is answered all the same, without another stroke."""
    models = tmp_path / "models"
    for name in ("a", "b"):
        write_bundle(models, name=name, shape=(1, 28, 28))
    with (
        run_server(models, default_model="a", watch_seconds=0.1) as server,
        run_explorer(settings_for(server, models=models)) as at,
    ):
        page, watched = open_page(at)
        page.locator("#model").select_option("b/0")
        choose_example(page, "3 dark on light")
        expect(page.locator("#words")).to_contain_text("One of two says")
        with page.expect_response("**/api/models*"):  # the next look is 5 seconds away
            pass
        write_bundle(tmp_path / "elsewhere", name="b", version=2, shape=(1, 28, 28)).rename(models / "b/2")
        with Client(f"127.0.0.1:{server.grpc_port}") as client:
            wait_for(lambda: client.get_model("b").model.version == 2)
        with page.expect_response("**/api/classify?name=b&version=1&*") as refused:
            page.locator("#early").check()
        assert refused.value.status == 404
        expect(page.locator("#model option")).to_have_text(["a, default (1)", "b, default (2)"])
        expect(page.locator("#model")).to_have_value("b/0")
        expect(page.locator("#early-words")).not_to_be_empty()
        page.close()
    watched.forgive_refusals()


def test_a_canary_that_answers_for_the_latest_is_no_change_of_the_server(
    open_page: OpenPage, tmp_path: Path
) -> None:
    """It answers every call that names no version; the page shows the stable one, and goes on to."""
    write_bundle(tmp_path, shape=(1, 28, 28))
    write_bundle(tmp_path, [StubMember((0.1, 0.1, 0.8))], version=2, shape=(1, 28, 28))
    write_labels(tmp_path / "stub", {"stable": 1, "canary": 2})
    with (
        run_server(tmp_path, canary_share=1) as server,
        run_explorer(settings_for(server, models=tmp_path)) as at,
    ):
        page, _ = open_page(at)
        choose_example(page, "3 dark on light")
        expect(page.locator("#words")).to_contain_text("One of two says")
        with page.expect_response("**/api/models*"):
            pass
        with page.expect_response("**/api/classify*"):
            page.locator("#early").check()
        expect(page.locator("#early-words")).not_to_be_empty()
        expect(page.locator("#words")).to_contain_text("of two")
        expect(page.locator("#notice")).to_be_hidden()
