"""Training the members of one or more runs, side by side in processes of their own.

A member's weights depend on its plan, the images and its number of threads alone, so it does not matter which
process trains it, in what order, or beside what.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Protocol, cast

import torch

from training.dataset import Dataset
from training.errors import DivergenceError, RunError, TrainingError
from training.member import EpochMetrics, Observer, train_member
from training.run import Run, resume_command
from training.sources import load_dataset

Message = tuple[int, int] | EpochMetrics | Exception
"""What a member's process sends: steps done of all, an epoch, or what stopped it."""


@dataclass(frozen=True)
class Job:
    """One member to train: the folder of its run, and which member of it, counted from 1."""

    run: Path
    member: int


class Gathering(Protocol):
    """Is told how all jobs go."""

    def step(self, job: Job, done: int, total: int) -> None:
        """`done` of `total` optimizer steps of the job's member are behind it."""

    def epoch(self, job: Job, metrics: EpochMetrics) -> None:
        """The job's member has finished an epoch, and it is safe on disk."""


def jobs_of(run: Run) -> list[Job]:
    """One job for each member that is not trained yet."""
    return [Job(run.folder, member) for member in run.settings.members if not run.is_trained(member)]


def train(jobs: Sequence[Job], dataset: Dataset, processes: int, gathering: Gathering) -> dict[Job, str]:
    """Train members here, one after the other, or several at once; see the two functions that do it."""
    if processes == 1:
        return train_here(jobs, dataset, gathering)
    return train_side_by_side(jobs, processes, gathering)


def train_here(jobs: Sequence[Job], dataset: Dataset, gathering: Gathering) -> dict[Job, str]:
    """Train one member after the other in this process.

    Returns:
        Why members were stopped, for those whose loss diverged.

    Raises:
        TrainingError: Whatever else stops the training.
    """
    diverged = {}
    for job in jobs:
        try:
            train_job(job, dataset, _Labelled(job, gathering))
        except DivergenceError as error:
            diverged[job] = str(error)
    return diverged


def train_side_by_side(jobs: Sequence[Job], processes: int, gathering: Gathering) -> dict[Job, str]:
    """Train several members at once, each in a process of its own.

    Args:
        jobs: What to train, in this order.
        processes: Most at a time.
        gathering: Is told of steps and epochs, in this process.

    Returns:
        Why members were stopped, for those whose loss diverged.

    Raises:
        TrainingError: Whatever else stops one of them; the others are then stopped too.
        OSError: A disk is full, say.
    """
    waiting = deque(jobs)
    running: dict[Connection, tuple[Job, SpawnProcess]] = {}
    diverged = {}
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                connection, process = _start(waiting[0])
                running[connection] = (waiting.popleft(), process)
            for connection in cast(list[Connection], wait(list(running))):
                job, process = running[connection]
                try:
                    message = connection.recv()
                except EOFError:
                    del running[connection]
                    _require_good_end(job, process)
                    continue
                if isinstance(message, DivergenceError):
                    diverged[job] = str(message)
                else:
                    pass_on(message, job, gathering)
    finally:
        for _, process in running.values():
            process.terminate()
        for _, process in running.values():
            process.join()
    return diverged


def train_job(job: Job, dataset: Dataset, observer: Observer) -> None:
    """Train one member in this process.

    Raises:
        DivergenceError: The loss became infinite or no number.
        DeviceError: The GPU has not memory enough.
        TrainingError: The images or the tools are not those of the run, or its files are damaged.
    """
    run = Run.open(job.run)
    run.settings.require_same_tools()
    run.require_same(dataset)
    torch.set_num_threads(run.settings.threads)
    train_member(run.settings.plan(job.member), dataset, run.member_folder(job.member), observer)


@dataclass(frozen=True)
class _Labelled:
    """Passes on what one member's training tells, with the job that it belongs to."""

    job: Job
    gathering: Gathering

    def step(self, done: int, total: int) -> None:
        self.gathering.step(self.job, done, total)

    def epoch(self, metrics: EpochMetrics) -> None:
        self.gathering.epoch(self.job, metrics)


@dataclass(frozen=True)
class _Sender:
    """Sends what one member's training tells to the process that gathers; fails when that process has died."""

    connection: Connection

    def step(self, done: int, total: int) -> None:
        self.connection.send((done, total))

    def epoch(self, metrics: EpochMetrics) -> None:
        self.connection.send(metrics)


def pass_on(message: Message, job: Job, gathering: Gathering) -> None:
    """Tell what came from where a member learns.

    Raises:
        Exception: What came was one.
    """
    match message:
        case EpochMetrics():
            gathering.epoch(job, message)
        case (done, total):
            gathering.step(job, done, total)
        case Exception():
            raise message


def _start(job: Job) -> tuple[Connection, SpawnProcess]:
    context = multiprocessing.get_context("spawn")  # a fork would copy torch's threads in the middle of things
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_train_and_tell, args=(job, sender), daemon=True)
    # Ctrl-C reaches all processes of a terminal; the one that gathers stops the others.
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process.start()
    finally:
        signal.signal(signal.SIGINT, handler)
    sender.close()  # the process has its own, and when that is closed the receiver sees the end
    return receiver, process


def _train_and_tell(job: Job, connection: Connection) -> None:
    """What a member's process does."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        settings = Run.open(job.run).settings
        train_job(job, load_dataset(settings.data_path, settings.image_side), _Sender(connection))
    except BrokenPipeError:
        return  # nobody gathers any more
    except (TrainingError, OSError) as error:
        connection.send(error)


def _end_with_parent() -> None:
    """End at once when the process that gathers has: whoever resumes the run needs the member's folder."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # noqa: S101  it was spawned
    wait([parent.sentinel])
    os._exit(1)


def _require_good_end(job: Job, process: SpawnProcess) -> None:
    process.join()
    if process.exitcode:
        raise RunError(
            f"the process of {job.run}, member {job.member}, ended with exit code {process.exitcode}"
            f"{': it was killed, perhaps for want of memory' if process.exitcode < 0 else ''}. "
            f"Continue with: {resume_command(job.run)}"
        )


def require_all(titles: Mapping[Job, str], diverged: Mapping[Job, str]) -> None:
    """Make sure that no ensemble comes out that lacks a member.

    Raises:
        DivergenceError: Some members diverged.
    """
    if not diverged:
        return
    reasons = "".join(f"\n  - {titles[job]}: {reason}" for job, reason in diverged.items())
    folders = sorted({job.run for job in diverged})
    commands = "".join(f"\n  {resume_command(folder)} --reseed" for folder in folders)
    raise DivergenceError(
        f"an ensemble needs all of its members, and these were stopped:{reasons}\n"
        f"To train them again from new seeds:{commands}"
    )
