"""Members train side by side to the same weights; what stops one is told, and no ensemble lacks it in silence."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch

from training.checkpoint import load_tensors
from training.command import EXIT_INTERRUPTED
from training.errors import DeviceError, RunError
from training.fit import main
from training.launch import Job, _end_with_parent, jobs_of, train, train_side_by_side
from training.learner import train_step
from training.member import CHECKPOINT_FILE, DIVERGED_FILE, EpochMetrics
from training.run import SUMMARY_FILE, Run
from training.sources import load_dataset

FAST = ["--architecture", "linear", "--epochs", "2", "--members", "3", "--threads", "1", "--precision", "float32"]


class Ledger:
    """Notes how far each job has come."""

    def __init__(self) -> None:
        self.steps: dict[Job, tuple[int, int]] = {}
        self.epochs: dict[Job, list[int]] = {}

    def step(self, job: Job, done: int, total: int) -> None:
        self.steps[job] = (done, total)

    def epoch(self, job: Job, metrics: EpochMetrics) -> None:
        self.epochs.setdefault(job, []).append(metrics.epoch)


@pytest.fixture
def begun(drawn_digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run that was set up but whose members have learned nothing."""
    with monkeypatch.context() as stopped:
        stopped.setattr("training.command.train", _stop)
        assert _fit(drawn_digits, tmp_path / "run") == EXIT_INTERRUPTED
    return Run.open(tmp_path / "run")


def _stop(*_: object) -> None:
    raise KeyboardInterrupt


def _fit(data: Path, run: Path, *more: str) -> int:
    return main(["--data", str(data), "--run", str(run), *FAST, *more])


def weights(run: Path, member: int) -> dict[str, torch.Tensor]:
    return load_tensors(run / f"member-{member}" / CHECKPOINT_FILE)[0]


def test_side_by_side_gives_the_weights_of_one_after_the_other(drawn_digits: Path, tmp_path: Path) -> None:
    for processes in ("1", "2"):
        assert _fit(drawn_digits, tmp_path / processes, "--processes", processes) == 0
    for member in (1, 2, 3):
        one, other = weights(tmp_path / "1", member), weights(tmp_path / "2", member)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert (tmp_path / "1" / SUMMARY_FILE).read_text() == (tmp_path / "2" / SUMMARY_FILE).read_text()


def test_all_that_the_processes_tell_is_gathered(begun: Run) -> None:
    ledger, jobs = Ledger(), jobs_of(begun)
    assert train_side_by_side(jobs, 2, ledger) == {}
    assert ledger.epochs == {job: [1, 2] for job in jobs}
    assert all(done == total for done, total in ledger.steps.values())
    assert jobs_of(begun) == [], "trained members are no jobs any more"


def test_a_gpu_that_is_full_is_said_with_what_to_do(begun: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr("training.member.train_epoch", full)
    dataset = load_dataset(begun.settings.data_path, begun.settings.image_side)
    with pytest.raises(DeviceError, match=r"not memory enough for member 2 .* with fewer --processes"):
        train([Job(begun.folder, 2)], dataset, 1, Ledger())


def test_a_killed_process_stops_the_run_with_its_name(begun: Run) -> None:
    class Killer(Ledger):
        def step(self, job: Job, done: int, total: int) -> None:
            for child in _children():
                os.kill(child, signal.SIGKILL)

    with pytest.raises(RunError, match=r"member \d, ended with exit code -9: it was killed, perhaps for want of"):
        train_side_by_side(jobs_of(begun), 2, Killer())
    assert not list(_children()), "the others go with it"


def test_a_member_ends_with_the_process_that_gathers_whatever_it_does() -> None:
    """Compiling, say, which tells nothing: the run's next process would wait for its folder."""
    context = multiprocessing.get_context("spawn")
    told, telling = context.Pipe(duplex=False)
    gathering = context.Process(target=_gather, args=(telling,))
    gathering.start()
    member = Path(f"/proc/{told.recv()}/stat")
    gathering.kill()
    gathering.join()
    until = time.monotonic() + 20
    while member.exists() and member.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < until
        time.sleep(0.05)


def _gather(connection: Connection) -> None:
    member = multiprocessing.get_context("spawn").Process(target=_be_busy, args=(connection,))
    member.start()
    member.join()


def _be_busy(connection: Connection) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    connection.send(os.getpid())
    time.sleep(120)


def _children() -> Iterator[int]:
    """Processes of this one that run Python's spawned code, not its resource tracker."""
    listed = Path(f"/proc/{os.getpid()}/task/{threading.get_native_id()}/children").read_text()
    for child in map(int, listed.split()):
        if b"--multiprocessing-fork" in Path(f"/proc/{child}/cmdline").read_bytes():
            yield child


def test_a_member_that_diverges_is_stopped_alone_and_makes_no_ensemble(
    drawn_digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverge(learner, *rest):  # type: ignore[no-untyped-def]
        loss, right = train_step(learner, *rest)
        return (loss * float("nan") if learner.plan.seed == 1002 else loss), right

    run = tmp_path / "run"
    with monkeypatch.context() as broken:
        broken.setattr("training.member.train_step", diverge)
        assert _fit(drawn_digits, run, "--processes", "1") == 1
    said = capsys.readouterr().err
    assert "an ensemble needs all of its members" in said
    assert "member 2 of 3: the loss became nan in epoch 1, step 1" in said
    assert f"--resume {run} --reseed" in said
    assert (run / "member-3" / CHECKPOINT_FILE).exists(), "the others were finished"
    assert not (run / SUMMARY_FILE).exists()

    assert main(["--resume", str(run), "--processes", "1"]) == 1, "the same seed would diverge again"
    assert "member 2 of 3: the loss became nan" in capsys.readouterr().err

    assert main(["--resume", str(run), "--processes", "1", "--reseed"]) == 0
    assert Run.open(run).settings.seeds == (1001, 1004, 1003)
    assert [member.seed for member in Run.open(run).read_summary().members] == [1001, 1004, 1003]
    assert not (run / "member-2" / DIVERGED_FILE).exists()


def test_reseed_needs_a_run(drawn_digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _fit(drawn_digits, tmp_path / "run", "--reseed") == 1
    assert "name it with --resume" in capsys.readouterr().err


def test_two_processes_never_train_the_same_member(
    begun: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.member.LOCK_SECONDS", 0.2)
    folder = begun.member_folder(1)
    folder.mkdir()
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        assert main(["--resume", str(begun.folder), "--processes", "1"]) == 1
    finally:
        os.close(descriptor)
    assert f"another process is training in {folder}" in capsys.readouterr().err
    assert main(["--resume", str(begun.folder), "--processes", "1"]) == 0
