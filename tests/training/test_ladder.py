"""The ladder's rungs are real recipes; trained rungs are kept, and the table says what they came to."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from training.command import FILE_COLUMNS
from training.evaluation import Figures
from training.ladder import LADDER, LadderSettings, RungResult, ladder_table, main
from training.recipes import RECIPES, find_recipe
from training.run import Run

FEW = ["--epochs", "1", "--precision", "float32", "--rungs", "lesson-linear,lesson-dense"]
ALONE = ["--processes", "1", "--threads", "1"]


def climb(data: Path, run: Path, *more: str) -> int:
    return main(["--data", str(data), "--run", str(run), *FEW, *ALONE, *more])


def test_every_rung_is_a_recipe_and_every_lesson_recipe_a_rung() -> None:
    assert {rung.recipe for rung in LADDER} == {name for name in RECIPES if name.startswith("lesson")}


def test_the_last_but_one_is_the_lessons_ensemble() -> None:
    """Adam at 1e-3, batches of 64, 1 + 4 + 12 + 18 epochs; the rates as written are the rung after it."""
    constant, staged = find_recipe("lesson"), find_recipe("lesson-staged")
    assert (constant.epochs, constant.batch_images, constant.learning_rate) == (35, 64, 1e-3)
    assert constant.weight_decay == 0
    assert constant.affines == staged.affines
    assert staged.epochs == 35
    assert (constant.members, staged.members) == (6, 1)


def test_the_table_says_what_each_rung_came_to(
    drawn_digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert climb(drawn_digits, tmp_path / "ladder") == 0
    printed = capsys.readouterr().out
    linear, dense = json.loads((tmp_path / "ladder/ladder.json").read_text())
    assert linear["parameters"] == 28 * 28 * 10 + 10
    assert linear["multiply_adds"] == 28 * 28 * 10
    assert dense["multiply_adds"] == 28 * 28 * 512 + 512 * 10
    assert (linear["lesson_test"], dense["lesson_test"]) == (0.924, 0.9397)
    for rung in (linear, dense):
        assert f"{rung['test']['accuracy']:.2%}" in printed
        assert f"{rung['parameters']:,}" in printed
        assert rung["epochs"] == 1
    assert (tmp_path / "ladder/ladder.png").stat().st_size > 5000


def test_nothing_of_the_whole_table_is_cut_off_in_a_file() -> None:
    """With figures as wide as they come: the longest title, a perfect rung, six members of 61 million."""
    figures = Figures(count=10_000, accuracy=1.0, accuracy_interval=(0.99, 0.9999), nll=0.01, ece=0.01)
    widest = [
        RungResult(
            recipe=rung.recipe,
            title=rung.title,
            members=6,
            parameters=3_577_980,
            multiply_adds=61_410_000,
            epochs=35,
            seconds=1.0,
            train=figures,
            held_out=figures,
            test=figures,
            mean_member_test=1.0,
            lesson_test=0.9945,
            lesson_augmented=True,
        )
        for rung in LADDER
    ]
    console = Console(width=FILE_COLUMNS)
    with console.capture() as printed:
        console.print(ladder_table(widest))
    assert "\N{HORIZONTAL ELLIPSIS}" not in printed.get()
    assert printed.get().count("99.45%*") == len(LADDER)


def test_rungs_that_are_trained_are_kept(
    drawn_digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    climb(drawn_digits, tmp_path)
    first = (tmp_path / "ladder.json").read_text()
    capsys.readouterr()
    assert climb(drawn_digits, tmp_path) == 0
    assert "epoch 1" not in capsys.readouterr().out
    assert (tmp_path / "ladder.json").read_text() == first


def test_images_that_have_moved_are_found_there_by_members_yet_to_train(
    drawn_digits: Path, tmp_path: Path
) -> None:
    """Their processes read the images from where the run has noted them."""
    climb(drawn_digits, tmp_path / "ladder")
    moved = shutil.copytree(drawn_digits, tmp_path / "moved")
    assert climb(moved, tmp_path / "ladder") == 0
    assert Run.open(tmp_path / "ladder" / "lesson-linear").settings.data_path == moved


def test_a_folder_of_another_recipe_is_refused(
    drawn_digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    climb(drawn_digits, tmp_path)
    assert climb(drawn_digits, tmp_path, "--epochs", "2") == 1
    assert "was begun by recipe 'lesson-linear with epochs=1', not 'lesson-linear with" in capsys.readouterr().err


def test_an_unknown_rung_is_refused_with_the_known_ones(
    drawn_digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--data", str(drawn_digits), "--run", str(tmp_path), "--rungs", "lesson-resnet"]) == 2
    assert "no rung is called lesson-resnet; there are lesson-linear" in capsys.readouterr().err


def test_another_seed_is_not_taken_for_this_one(
    drawn_digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    climb(drawn_digits, tmp_path)
    assert climb(drawn_digits, tmp_path, "--seed", "2") == 1
    assert "was begun with --seed 1; choose another --run" in capsys.readouterr().err


def test_rungs_that_were_begun_keep_what_they_were_begun_with(
    drawn_digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    climb(drawn_digits, tmp_path)
    rung = ["--data", str(drawn_digits), "--run", str(tmp_path), "--epochs", "1", "--rungs", "lesson-linear"]
    assert main([*rung, "--threads", "2"]) == 1
    assert "lesson-linear was begun with --threads 1; choose another --run" in capsys.readouterr().err
    assert main([*rung, "--precision", "bfloat16"]) == 1
    assert "lesson-linear was begun in float32; choose another --run" in capsys.readouterr().err


def test_a_disk_too_small_for_all_rungs_is_said_before_training(
    drawn_digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Enough for each of them, of which the larger one needs some 20 MB."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=25e6))
    assert climb(drawn_digits, tmp_path) == 1
    assert "has 25 MB free, and 33 MB are needed; make room, then go on with" in capsys.readouterr().err
    assert not (tmp_path / "lesson-linear" / "member-1").exists()


def test_the_staged_rung_keeps_its_epochs() -> None:
    settings = LadderSettings(epochs=2)
    assert {settings.recipe_of(rung).epochs for rung in LADDER} == {2, 35}


def test_rungs_share_the_cores(drawn_digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rungs of one member on four cores: two threads each, not four for whichever comes first."""
    monkeypatch.setattr("training.command.CORES", 4)
    assert main(["--data", str(drawn_digits), "--run", str(tmp_path), *FEW]) == 0
    assert [Run.open(tmp_path / rung).settings.threads for rung in ("lesson-linear", "lesson-dense")] == [2, 2]
