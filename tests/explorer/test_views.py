"""The views beside drawing: layers, convolution, uncertainty, the record."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from export.manifest import read_manifest
from tests.explorer.chromium import PHONE, choose_example, serious_problems, show_everything, show_example
from tests.explorer.conftest import MNIST_VERSION, ROOT, SMALL_VERSION, OpenPage


def test_layers_are_stepped_through_and_maps_enlarged(page: Page) -> None:
    show_example(page, "3 dark on light", "layers")
    expect(page.locator("#layer-title")).to_have_text("Convolution 1")
    expect(page.locator("#layer-facts")).to_have_text(
        re.compile(r"^Conv · \d×\d, with(out)? padding · \d+ maps of \d+×\d+$")
    )
    maps = page.locator("#maps canvas").count()
    assert maps > 1
    expect(page.locator("#filters canvas")).to_have_count(maps)
    expect(page.locator("#layer-proof")).to_contain_text("Its probabilities are the server’s")
    page.locator("#layer-list").focus()
    second = page.locator("#layer-list").get_by_text("convolution 2", exact=True)
    while second.locator("..").get_attribute("aria-selected") != "true":
        page.keyboard.press("ArrowDown")
    expect(page.locator("#layer-title")).to_have_text("Convolution 2")
    expect(page.locator("#layer-words")).to_contain_text(
        re.compile(r"Each value sees \d+×\d+ pixels of the input\.")
    )
    page.get_by_role("button", name="Enlarge map 1", exact=True).click()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#enlarged-title")).to_have_text(re.compile(r"^convolution 2, map 2 of \d+$"))
    page.keyboard.press("Escape")
    page.locator("#layer-list").focus()
    page.keyboard.press("End")
    expect(page.locator("#maps .bar.top .value")).to_contain_text("%")
    page.locator("#layer-members label").nth(4).click()
    expect(page.locator("#layer-proof")).to_contain_text("Its probabilities are the server’s")


def painted(page: Page, canvas: str) -> int:
    """How many colours a canvas shows."""
    colours: int = page.evaluate(
        """(id) => {
          const canvas = document.querySelector(id);
          const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
          return new Set(new Uint32Array(data.buffer)).size;
        }""",
        canvas,
    )
    return colours


def test_a_value_is_followed_back_to_the_pixels_by_keyboard_alone(page: Page) -> None:
    """Of a map, of a unit, of a class. Without a run, the page names the command that finds what excites it."""
    show_example(page, "3 dark on light", "layers")
    page.locator("#layer-list").focus()
    page.keyboard.press("Home")
    for _ in range(4):
        page.keyboard.press("ArrowDown")
    expect(page.locator("#layer-title")).to_have_text("Activation 2")
    page.get_by_role("button", name="Enlarge map 2", exact=True).focus()
    page.keyboard.press("Enter")
    expect(page.locator("#gradient-guided-scale")).to_have_text(re.compile(r"^−\d.*\d$"))
    expect(page.locator("#enlarged-after")).to_be_focused()
    assert painted(page, "#gradient-plain") > 20
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Shift+Tab")
    expect(page.locator("#hiding-run")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#hiding-words")).to_contain_text(re.compile(r"costs most: .* falls to|does not fall"))
    assert painted(page, "#hiding-map") > 20
    value = page.locator("#enlarged-value").inner_text()
    page.keyboard.press("Shift+Tab")
    expect(page.locator("#enlarged-map")).to_be_focused()
    with page.expect_response(re.compile("/api/gradients")):
        page.keyboard.press("ArrowDown" if "at row 1," in value else "ArrowUp")
    expect(page.locator("#enlarged-value")).not_to_have_text(value)
    expect(page.locator("#excited-refusal")).to_contain_text("python -m training.inspect RUN")
    page.keyboard.press("Escape")
    page.locator("#layer-list").focus()
    page.keyboard.press("End")
    page.get_by_role("button", name="Look closer at 3").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#enlarged-title")).to_have_text("softmax 1, class 3")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#enlarged-title")).to_have_text("softmax 1, class 4")
    page.keyboard.press("Escape")
    page.locator("#layer-list").focus()
    page.keyboard.press("Home")
    expect(page.locator("#layer-title")).to_have_text("Input, normalized")
    page.get_by_role("button", name="Enlarge map 1", exact=True).click()
    expect(page.locator("#gradient-refusal")).to_contain_text("This is the input itself")
    expect(page.locator("#gradients")).to_be_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("options", [{"viewport": {"width": 1280, "height": 900}}, PHONE], ids=["wide", "phone"])
def test_what_excites_a_unit_is_shown_for_the_runs_own_members(
    open_page: OpenPage, inspected_address: str, scheme: str, options: dict[str, Any]
) -> None:
    page, _ = open_page(inspected_address, color_scheme=scheme, **options)
    choose_example(page, "3 dark on light")
    expect(page.locator("#answer")).not_to_have_text("–")
    show_everything(page, "layers")
    page.get_by_role("button", name="Enlarge map 2", exact=True).click()
    expect(page.locator("#excited .nine canvas")).to_have_count(9)
    expect(page.locator("#excited > figure figcaption")).to_have_text(re.compile(r"^made for it · -?\d"))
    expect(page.locator("#excited-words")).to_contain_text("Filter 2 of convolution 1: 9 of 580 training images")
    page.locator("#excited-how summary").click()
    expect(page.locator("#excited-rules")).to_contain_text("Gradient ascent on pixels")
    expect(page.locator("#excited-rules")).to_contain_text("blurred")
    expect(page.locator("#gradient-plain-scale")).to_contain_text("−")
    assert serious_problems(page) == []
    assert page.evaluate("document.querySelector('#enlarged').scrollWidth <= innerWidth")
    page.locator("#enlarged-close").click()
    page.locator("#model").select_option("stub/0")
    expect(page.locator("#layer-title")).to_have_text("Dense 1")
    page.get_by_role("button", name="Look closer at class 0").click()
    expect(page.locator("#excited-refusal")).to_contain_text("did not make this member")
    expect(page.locator("#excited canvas")).to_have_count(0)


def test_hiding_parts_shows_which_pixels_matter(page: Page) -> None:
    show_example(page, "7 dark on light", "layers")
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
    show_example(page, "0 light on dark", "convolution")
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
    show_example(page, "7 dark on light", "uncertainty")
    expect(page.locator("#sweep-words")).to_contain_text("of 25 are still read as 7.")
    expect(page.locator("#sweep-chart polyline")).to_have_count(7)
    expect(page.locator(".stranger")).to_have_count(14)
    for title, steps in (("Shift", 25), ("Noise", 25)):
        page.locator("#sweep-choice").get_by_label(title).check()
        expect(page.locator("#sweep-words")).to_contain_text(f"of {steps} are still read as 7.")


def test_the_record_shows_figures_versions_and_live_metrics(page: Page) -> None:
    accuracy = read_manifest(ROOT / f"models/mnist/{MNIST_VERSION}").test.accuracy
    show_everything(page, "record")
    expect(page.locator("#record-figures")).to_contain_text(f"{accuracy * 100:.2f}\u00a0%")
    expect(page.locator("#record-members tbody tr")).to_have_count(6)
    page.get_by_role("button", name=f"Use mnist-small version {SMALL_VERSION}").click()
    expect(page.locator("#record-title")).to_have_text(f"Figures of mnist-small, version {SMALL_VERSION}")
    expect(page.locator("#model")).to_have_value("mnist-small/0")
    expect(page.locator("#live-rate")).to_have_text(re.compile(r"^\d"))
