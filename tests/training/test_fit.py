"""The command: what it writes, what it refuses, and how it is continued after being stopped."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.digits import write_digits
from training.checkpoint import load_tensors
from training.dataset import Dataset, Images, divide
from training.errors import RunError
from training.fit import FitSettings, main
from training.learner import Plan
from training.member import CHECKPOINT_FILE, METRICS_FILE
from training.precision import measure_speedup
from training.recipes import find_recipe
from training.run import SETTINGS_FILE, SUMMARY_FILE, Run
from training.sources import load_dataset

ROOT = Path(__file__).parents[2]
FAST = ["--architecture", "linear", "--epochs", "2", "--members", "2", "--processes", "1", "--threads", "1"]
FLOAT32 = ["--precision", "float32"]


def arguments(data: Path, run: Path, *more: str) -> list[str]:
    return ["--data", str(data), "--run", str(run), *FAST, *FLOAT32, *more]


def test_a_run_holds_all_that_it_came_from_and_came_to(
    drawn_digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(drawn_digits, tmp_path / "run", "--seed", "3")) == 0
    run = Run.open(tmp_path / "run")
    assert run.settings.seeds == (3001, 3002)
    assert run.settings.recipe.architectures == ("linear",)
    assert run.settings.tools["torch"] == str(torch.__version__)
    lines = [json.loads(line) for line in (tmp_path / "run/member-2" / METRICS_FILE).read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    summary = run.read_summary()
    assert [member.seed for member in summary.members] == [3001, 3002]
    for figures in (summary.members[0].test, summary.ensemble.test):
        low, high = figures.accuracy_interval
        assert figures.count == 200
        assert 0 < low < figures.accuracy < high < 1
    printed = capsys.readouterr().out
    assert "member 2 of 2, epoch 2: loss" in printed, "plain lines where there is no terminal"
    assert "python -m export" in printed


def test_the_ensemble_beats_chance_and_its_figures_are_of_the_average(drawn_digits: Path, tmp_path: Path) -> None:
    main(arguments(drawn_digits, tmp_path / "run"))
    summary = Run.open(tmp_path / "run").read_summary()
    assert summary.ensemble.test.accuracy > 0.5
    # calibration never changes the order of classes
    assert summary.ensemble.test.accuracy == summary.ensemble.test_uncalibrated.accuracy
    assert summary.ensemble.held_out.nll <= summary.ensemble.held_out_uncalibrated.nll


def test_fewer_members_than_the_recipe_has_networks(drawn_digits: Path, tmp_path: Path) -> None:
    few = ["--members", "1", "--epochs", "1", "--processes", "1", "--threads", "1", *FLOAT32]
    assert main(["--data", str(drawn_digits), "--run", str(tmp_path / "run"), *few]) == 0
    assert [member.architecture for member in Run.open(tmp_path / "run").read_summary().members] == ["cnn_slim"]


def test_a_folder_in_use_is_not_overwritten(
    drawn_digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "precious").touch()
    assert main(arguments(drawn_digits, tmp_path)) == 1
    assert "not empty; choose another folder with --run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (["--recipe", "best"], 2, "no recipe has that name; there are default, small, photographs, lesson"),
        (["--architecture", "resnet"], 2, "no architecture has that name; there are linear, dense, cnn"),
        (["--members", "0"], 2, "--members: Input should be greater than or equal to 1, got '0'"),
        (["--learning-rate", "inf"], 2, "--learning-rate: Input should be a finite number, got 'inf'"),
        (["--ray-address", "auto"], 2, "--ray-address: Value error, needs --launcher ray, got 'auto'"),
        (["--run", "\udcff"], 2, "--run: Value error, no UTF-8 text, which is what a run's files are, got "),
        (["--batch-images", "1"], 2, "--batch-images: Input should be greater than or equal to 2, got '1'"),
        (
            ["--batch-images", "600", "--precision", "auto"],
            1,
            "580 training images do not fill one batch of 600; name a smaller --batch-images, or add images",
        ),
    ],
)
def test_wrong_settings_are_explained(
    more: list[str],
    code: int,
    message: str,
    drawn_digits: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*arguments(drawn_digits, tmp_path / "run"), *more]) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists(), "a folder that the next try would find in use"


def test_before_a_run_is_begun_there_is_none_to_continue_with(
    drawn_digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> Dataset:
        raise KeyboardInterrupt

    monkeypatch.setattr("training.command.load_dataset", interrupted)
    assert main(arguments(drawn_digits, tmp_path / "run")) == 130
    assert capsys.readouterr().err == "Interrupted.\n"


@pytest.mark.parametrize(
    ("channels", "plain", "recipe"),
    [
        (1, True, "default"),
        (1, False, "photographs"),
        (3, True, "photographs with flip=False"),
        (3, False, "photographs"),
    ],
)
def test_the_recipe_follows_the_images(channels: int, plain: bool, recipe: str) -> None:
    """Signs in colour are not to be mirrored, as strokes are not."""
    pixels = torch.randint(0, 256, (40, channels, 16, 16), dtype=torch.uint8)
    if plain:
        pixels[:, :, [0, -1], :] = pixels[:, :, :, [0, -1]] = 250
    dataset = divide("drawn", ("a", "b"), Images(pixels, torch.arange(40) % 2), None, None)
    assert FitSettings(_cli_parse_args=[]).choose_recipe(dataset).name == recipe
    asked = FitSettings(_cli_parse_args=["--flip"]).choose_recipe(dataset)
    assert asked.flip
    assert FitSettings(_cli_parse_args=["--recipe", "photographs"]).choose_recipe(dataset).flip


def test_resume_refuses_settings_of_its_own(
    drawn_digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(arguments(drawn_digits, tmp_path / "run"))
    assert main(["--data", str(drawn_digits), "--resume", str(tmp_path / "run"), "--members", "3"]) == 1
    assert "leave out --members" in capsys.readouterr().err


def test_resume_finds_the_images_where_they_were(drawn_digits: Path, tmp_path: Path) -> None:
    main(arguments(drawn_digits, tmp_path / "run"))
    (tmp_path / "run" / SUMMARY_FILE).unlink()
    assert main(["--resume", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / SUMMARY_FILE).exists()


def test_a_changed_recipe_says_so(drawn_digits: Path, tmp_path: Path) -> None:
    main(arguments(drawn_digits, tmp_path / "run", "--recipe", "lesson"))
    name = Run.open(tmp_path / "run").settings.recipe.name
    assert name == "lesson with members=2, epochs=2, architectures=linear"


def test_the_environment_gives_the_data_and_nothing_else(
    drawn_digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CONSORT_THREADS is the server's."""
    monkeypatch.setenv("CONSORT_DATA", str(drawn_digits))
    monkeypatch.setenv("CONSORT_THREADS", "none of ours")
    assert main(["--run", str(tmp_path / "run"), *FAST, *FLOAT32]) == 0
    assert main(["--resume", str(tmp_path / "run")]) == 0


def test_a_run_goes_on_with_its_own_images_whatever_the_environment_names(
    drawn_digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless they are gone from where it read them."""
    other, moved = write_digits(tmp_path / "other", train=640, test=100), tmp_path / "moved"
    mine = shutil.copytree(drawn_digits, tmp_path / "mine")
    main(arguments(mine, tmp_path / "run"))
    monkeypatch.setenv("CONSORT_DATA", f"{other}/")
    assert main(["--resume", str(tmp_path / "run")]) == 0
    mine.rename(moved)
    assert main(["--resume", str(tmp_path / "run")]) == 1
    monkeypatch.setenv("CONSORT_DATA", str(moved))
    assert main(["--resume", str(tmp_path / "run")]) == 0
    monkeypatch.delenv("CONSORT_DATA")
    monkeypatch.chdir(other)
    assert main(["--resume", str(tmp_path / "run"), "--data", "."]) == 1, "what is named is taken"


def test_resume_refuses_other_images(
    drawn_digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(arguments(drawn_digits, tmp_path / "run"))
    other = write_digits(tmp_path / "other", train=640, test=100)
    assert main(["--data", str(other), "--resume", str(tmp_path / "run")]) == 1
    assert "IDX files 'other' are not the images that" in capsys.readouterr().err


def test_resume_refuses_classes_of_other_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The report would call them one thing, and the bundle another."""
    pixels = np.random.default_rng(0).integers(0, 256, (400, 8, 8), np.uint8)
    labels = np.arange(400) % 2
    np.savez(tmp_path / "a.npz", x_train=pixels, y_train=labels, class_labels=np.array(["cat", "dog"]))
    assert main(arguments(tmp_path / "a.npz", tmp_path / "run")) == 0
    np.savez(tmp_path / "a.npz", x_train=pixels, y_train=labels, class_labels=np.array(["ant", "dog"]))
    assert main(["--resume", str(tmp_path / "run")]) == 1
    assert "the classes of NPZ file 'a' are called ant, dog now, and cat, dog when" in capsys.readouterr().err


def test_what_is_printed_can_be_pasted(
    drawn_digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "my digits[/v2]"
    assert main(arguments(drawn_digits, run)) == 0
    said = capsys.readouterr().out
    assert f"Report: {run}/report.html" in said
    assert f"python -m export '{run}' --name" in said


def test_whoever_may_read_a_run_may_read_its_checkpoints(drawn_digits: Path, tmp_path: Path) -> None:
    main(arguments(drawn_digits, tmp_path / "run"))
    modes = {path: path.stat().st_mode for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert len(set(modes.values())) == 1, modes


def test_resume_refuses_other_tools_for_members_that_are_not_trained(
    drawn_digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their weights would not be those of an unbroken run; members that are trained are only measured."""
    run, resume = tmp_path / "run", ["--resume", str(tmp_path / "run"), "--processes", "1"]
    main(arguments(drawn_digits, run))
    settings = Run.open(run).settings
    older = settings.model_copy(update={"tools": settings.tools | {"torch": "1.0"}})
    (run / SETTINGS_FILE).write_text(older.model_dump_json())
    assert main(resume) == 0
    (run / "member-2" / CHECKPOINT_FILE).unlink()
    capsys.readouterr()
    assert main(resume) == 1
    python = settings.tools["python"]
    said = capsys.readouterr().err
    assert f"python {python}, torch 1.0, which the run began with; here are python {python}, torch 2." in said


@pytest.mark.parametrize("file", [SETTINGS_FILE, SUMMARY_FILE])
def test_files_that_are_no_text_are_called_damaged(drawn_digits: Path, tmp_path: Path, file: str) -> None:
    main(arguments(drawn_digits, tmp_path))
    (tmp_path / file).write_bytes(b"\xff\xfe")
    with pytest.raises(RunError, match=f"{file} is damaged"):
        Run.open(tmp_path).read_summary()


def test_resume_refuses_a_folder_without_a_run(
    drawn_digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--data", str(drawn_digits), "--resume", str(tmp_path)]) == 1
    assert "holds no run" in capsys.readouterr().err


def test_a_full_disk_is_said_before_training(
    drawn_digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1e5))
        assert main(arguments(drawn_digits, tmp_path / "run")) == 1
    said = capsys.readouterr().err
    assert re.search(
        r"the disk of .* has 0 MB free, and 1[01] MB are needed; make room, then continue with: ", said
    )
    assert not (tmp_path / "run" / "member-1").exists()
    resume = ["--resume", str(tmp_path / "run"), "--processes", "1"]
    with monkeypatch.context() as broken:
        broken.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1e5))
        assert main(resume) == 1
    assert "has 0 MB free" in capsys.readouterr().err
    assert main(resume) == 0, "once there is room, as the message says"


def test_a_disk_that_fills_up_is_said_in_one_line_and_the_run_goes_on_later(
    drawn_digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    written = count(1)

    def sync(_: int) -> None:
        if next(written) > 4:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", sync)
        assert main(arguments(drawn_digits, tmp_path / "run")) == 1
    run = tmp_path / "run"
    said = f"[Errno 28] No space left on device. Continue with: python -m training.fit --resume {run}\n"
    assert capsys.readouterr().err == said
    assert main(["--resume", str(run)]) == 0


def test_a_beginning_that_failed_is_no_run_and_can_be_repeated(
    drawn_digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", full)
        assert main(arguments(drawn_digits, tmp_path)) == 1
    assert "cannot be written: [Errno 28] No space left on device" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "settings.json.unfinished").touch()  # as a process leaves it that was killed
    assert main(arguments(drawn_digits, tmp_path)) == 0


def test_a_folder_that_cannot_be_written_is_said_before_training(
    drawn_digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main(arguments(drawn_digits, tmp_path / "file" / "run")) == 1
    assert "cannot be written: [Errno 20] Not a directory" in capsys.readouterr().err


@pytest.mark.parametrize(("speedup", "chosen"), [(1.1, "float32"), (1.3, "bfloat16")])
def test_the_faster_precision_is_taken_and_named(
    speedup: float,
    chosen: str,
    drawn_digits: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("training.precision.measure_speedup", lambda *_: speedup)
    main(["--data", str(drawn_digits), "--run", str(tmp_path / "run"), *FAST])
    said = f"bfloat16 is {speedup} times as fast as float32 here; training in {chosen}"
    assert said in capsys.readouterr().out
    assert Run.open(tmp_path / "run").settings.precision == chosen


def test_both_precisions_are_timed(drawn_digits: Path) -> None:
    dataset = load_dataset(drawn_digits)
    assert 0.01 < measure_speedup(Plan(find_recipe("default"), 1, 1, torch.float32), dataset) < 100


FIT = [sys.executable, "-m", "training.fit"]
LONG = [
    *["--architecture", "linear", "--epochs", "120", "--members", "2", "--threads", "1", "--precision", "float32"]
]


@pytest.fixture(scope="module")
def unbroken(drawn_digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted."""
    run = tmp_path_factory.mktemp("runs") / "unbroken"
    subprocess.run([*FIT, "--data", str(drawn_digits), "--run", str(run), *LONG], cwd=ROOT, check=True)
    return run


def epochs_of(run: Path) -> int:
    """How many epochs of all members are safe on disk."""
    return sum(len(file.read_text().splitlines()) for file in run.glob(f"member-*/{METRICS_FILE}"))


def stop_on_the_way(command: list[str], run: Path, number: signal.Signals) -> tuple[int, str]:
    """Begin or continue a run and stop it when some epochs more are done; gives exit code and last words."""
    wanted = epochs_of(run) + 10
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    give_up = time.monotonic() + 120
    while epochs_of(run) < wanted:
        assert process.poll() is None
        assert time.monotonic() < give_up
        time.sleep(0.005)
    process.send_signal(number)
    _, said = process.communicate()
    return process.returncode, said


@pytest.mark.parametrize(("number", "times"), [(signal.SIGINT, 1), (signal.SIGTERM, 1), (signal.SIGKILL, 3)])
def test_a_stopped_run_resumes_to_the_same_weights(
    number: signal.Signals, times: int, drawn_digits: Path, unbroken: Path, tmp_path: Path
) -> None:
    """Stopped amid its members; asked nicely, it says how to go on; killed, it goes on from wherever it was."""
    run = tmp_path / "run"
    resume = [*FIT, "--data", str(drawn_digits), "--resume", str(run)]
    # Where the tests run in a shell's background, Ctrl-C is ignored, and the process would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    command = [*FIT, "--data", str(drawn_digits), "--run", str(run), *LONG]
    for _ in range(times):
        code, said = stop_on_the_way(command, run, number)
        if number == signal.SIGKILL:
            assert code == -signal.SIGKILL
        else:
            assert code == 130
            assert f"Continue with: python -m training.fit --resume {run}" in said
        assert not (run / "member-2" / CHECKPOINT_FILE).exists()
        command = resume
    subprocess.run(resume, cwd=ROOT, check=True)
    for member in ("member-1", "member-2"):
        one, other = (load_tensors(folder / member / CHECKPOINT_FILE)[0] for folder in (run, unbroken))
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert (run / SUMMARY_FILE).read_text() == (unbroken / SUMMARY_FILE).read_text()
