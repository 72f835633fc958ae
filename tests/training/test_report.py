"""The report needs nothing but itself, shows what it promises, and can be written again to the same bytes."""

from __future__ import annotations

import base64
import io
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.pictures import write_pictures
from training import fit, report
from training.member import EpochMetrics
from training.plots import Picture, plot_confusion, plot_curves, plot_pictures, plot_reliability
from training.run import Run
from training.sections import _most_confused

EPOCH = EpochMetrics(
    epoch=1,
    learning_rate=0.1,
    train_loss=0.3,
    train_accuracy=0.7,
    held_out_accuracy=1.0,
    held_out_nll=0.2,
    seconds=1.0,
)
PLOTS = {"curves", "confusion", "reliability", "errors", "disagreement", "augmentation", "filters"}


class Page(HTMLParser):
    """Collects headings, addresses and pictures; complains of tags that are not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[str] = []
        self.addresses: list[str] = []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("h1", "h2"):
            self.headings.append(data)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Three members on colour pictures, trained too briefly to be right, with names that do harm."""
    folder = tmp_path_factory.mktemp("report")
    data = write_pictures(folder / "<b>$#$", count_per_class=24, side=24)
    classes = sorted(path for path in data.iterdir())
    classes[0].rename(data / "C$#$")
    classes[1].rename(data / "a name much longer than fits below a picture")
    brief = ["--members", "3", "--epochs", "1", "--batch-images", "32"]
    alone = ["--processes", "1", "--threads", "1", "--precision", "float32"]
    assert fit.main(["--data", str(data), "--run", str(folder / "run"), *brief, *alone]) == 0
    return Run.open(folder / "run")


def test_fit_writes_a_report_that_needs_nothing_else(run: Run) -> None:
    html = (run.folder / "report.html").read_text()
    page = Page(html)
    assert page.headings[0] == f"3 members on {run.settings.data}"
    assert len(page.addresses) == len(PLOTS)
    for address in page.addresses:
        scheme, _, data = address.partition(",")
        assert scheme == "data:image/png;base64"
        Image.open(io.BytesIO(base64.b64decode(data, validate=True))).load()
    assert "<script" not in html
    assert not re.search(r"https?://|url\(|@import", html)


def test_settings_are_said_without_brackets(run: Run) -> None:
    html = (run.folder / "report.html").read_text()
    assert "<dt>seeds</dt><dd>1001, 1002, 1003</dd>" in html
    assert "<dt>device</dt><dd>cpu</dd>" in html
    assert "<dt>affines</dt><dd>rotation_degrees 8.0, shift 0.1, shear_radians 0.1, zoom 0.1, " in html


def test_names_are_text_not_markup(run: Run) -> None:
    """Neither to the browser nor, in the plots, as mathematics, which this one would be an error in."""
    html = (run.folder / "report.html").read_text()
    assert "<b>" not in html
    assert "&lt;b&gt;$#$" in html


def test_every_plot_is_a_file_too_and_shows_something(run: Run) -> None:
    assert {path.stem for path in (run.folder / "plots").glob("*.png")} == PLOTS
    for path in (run.folder / "plots").glob("*.png"):
        colours = Image.open(path).convert("RGB").getcolors(maxcolors=1 << 24)
        assert colours
        assert len(colours) > 20, path


def test_the_report_gives_the_figures_of_the_summary(run: Run) -> None:
    ensemble = run.read_summary().ensemble
    html = (run.folder / "report.html").read_text()
    assert f"reads {ensemble.test.accuracy:.2%} of {ensemble.test.count:,} test images right" in html
    assert f"{ensemble.test_agreement:.2%} of the members" in html
    wrong = round((1 - ensemble.test.accuracy) * ensemble.test.count)
    assert f"{wrong} are read wrong" in html


def test_a_report_can_be_written_again_to_the_same_bytes(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = tmp_path / run.folder.name
    shutil.copytree(run.folder, again)
    (again / "report.html").unlink()
    assert report.main([str(again)]) == 0
    assert capsys.readouterr().out.strip() == str(again / "report.html")
    assert (again / "report.html").read_bytes() == (run.folder / "report.html").read_bytes()


def test_an_unfinished_run_has_no_report(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(run.folder, tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    assert report.main([str(tmp_path / "run")]) == 1
    assert "has no summary" in capsys.readouterr().err


def test_plots_bear_perfect_figures_and_one_epoch() -> None:
    """No error at all, empty bins, a single epoch, one picture."""
    certain = torch.eye(3)
    labels = torch.arange(3)
    for figure in (
        plot_confusion(torch.eye(3, dtype=torch.int64), ("a", "b", "c")),
        plot_reliability(certain, certain, labels, 1.0),
        plot_pictures([Picture(torch.zeros(1, 8, 8, dtype=torch.uint8), "one")]),
        plot_curves([[EPOCH]]),
    ):
        figure.savefig(io.BytesIO())


def test_the_most_frequent_errors_are_said_in_words() -> None:
    confusion = torch.tensor([[9, 1, 0], [4, 9, 0], [0, 0, 9]])
    assert _most_confused(confusion, ("\u65e5", "b", "c")) == [
        "Most often: b taken for \u65e5 (4); \u65e5 taken for b (1)."
    ]
    assert _most_confused(torch.eye(3, dtype=torch.int64), ("a", "b", "c")) == []
