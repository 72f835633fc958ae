"""Training members as tasks of a Ray cluster: many machines, each with Consort installed, none sharing a disk.

Images travel to the tasks and finished members travel back, so a member whose node is lost is simply trained
again elsewhere, to the same weights. Epochs of a task are kept on its own node alone: what was interrupted begins
anew.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from training.dataset import Dataset
from training.device import gpu_share
from training.errors import DivergenceError, RunError
from training.files import write_bytes_whole
from training.launch import Gathering, Job, Message, pass_on
from training.member import CHECKPOINT_FILE, STATE_FILE, EpochMetrics, train_member
from training.run import Run, RunSettings, resume_command

RETRIES = 5
"""So often a member is trained again because its node was lost."""
POLL_SECONDS = 0.5
CONNECT_SECONDS = 5.0

Files = dict[str, bytes]
"""What lies in a member's folder, by name."""


def train_on_ray(
    jobs: Sequence[Job], dataset: Dataset, address: str | None, gathering: Gathering
) -> dict[Job, str]:
    """Train every member as a task of a Ray cluster.

    Args:
        jobs: What to train.
        dataset: The images of all of them.
        address: Of the cluster, as `ray.init` takes it; None starts one on this machine.
        gathering: Is told of steps and epochs, in this process.

    Returns:
        Why members were stopped, for those whose loss diverged.

    Raises:
        RunError: The cluster cannot be reached, was lost, or did not finish a member.
    """
    with _connected(address), _saying_when_lost(jobs):
        _require_room(jobs)
        images = ray.put(dataset)
        post = _Post.options(  # type: ignore[attr-defined]
            num_cpus=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(
                ray.get_runtime_context().get_node_id(), soft=False
            ),
        ).remote()
        tasks = {_submit(job, images, post): job for job in jobs}
        diverged = {}
        failures: list[RunError] = []
        while tasks and not failures:
            done, _ = ray.wait(list(tasks), num_returns=len(tasks), timeout=POLL_SECONDS)
            for job, message in ray.get(post.take.remote()):
                pass_on(message, job, gathering)
            for task in done:
                job = tasks.pop(task)
                try:
                    files, reason = _result_of(task, job)
                except RunError as error:  # once the others that are done are on disk
                    failures.append(error)
                    continue
                _unpack(files, _folder_of(job))
                if reason:
                    diverged[job] = reason
        if failures:
            raise failures[0]
        return diverged


@ray.remote
class _Post:
    """Lives on the node of the process that gathers; tasks leave there what they have to tell."""

    def __init__(self) -> None:
        self._messages: list[tuple[Job, Message]] = []

    def put(self, job: Job, message: Message) -> None:
        self._messages.append((job, message))

    def take(self) -> list[tuple[Job, Message]]:
        messages, self._messages = self._messages, []
        return messages


@dataclass(frozen=True)
class _Sender:
    """An observer in a task: sends what one member's training tells."""

    job: Job
    post: Any

    def step(self, done: int, total: int) -> None:
        self.post.put.remote(self.job, (done, total))

    def epoch(self, metrics: EpochMetrics) -> None:
        ray.get(self.post.put.remote(self.job, metrics))  # waited for: the last one must not come after the result


@ray.remote(max_retries=RETRIES)
def _train(settings: RunSettings, dataset: Dataset, files: Files, sender: _Sender) -> tuple[Files, str | None]:
    """What a task does: train a member in a folder of its own; gives the folder's files, and why it diverged."""
    settings.require_same_tools()
    torch.set_num_threads(settings.threads)
    reason = None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _unpack(files, folder)
        try:
            train_member(settings.plan(sender.job.member), dataset, folder, sender)
        except DivergenceError as error:
            reason = str(error)
        return _pack(folder), reason


def _require_room(jobs: Sequence[Job]) -> None:
    """Find out whether a task fits any node: one that does not would wait for ever."""
    settings = [Run.open(job.run).settings for job in jobs]
    needed = max(one.threads for one in settings)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    largest = max(int(node.get("CPU", 0)) for node in nodes)
    if needed > largest:
        raise RunError(
            f"a member needs {needed} processors and the cluster's largest node has {largest}; name --threads"
        )
    if any(gpu_share(one.device) for one in settings) and not any(node.get("GPU") for node in nodes):
        raise RunError("the members learn on a GPU, and no node of the cluster has one; name --device cpu")


def _submit(job: Job, images: Any, post: Any) -> Any:
    settings = Run.open(job.run).settings
    task = _train.options(num_cpus=settings.threads, num_gpus=gpu_share(settings.device))
    files = _pack(_folder_of(job))
    return task.remote(settings, images, files, _Sender(job, post))


def _result_of(task: Any, job: Job) -> tuple[Files, str | None]:
    try:
        files, reason = ray.get(task)
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error
        raise RunError(
            f"the cluster did not finish {job.run}, member {job.member}: {cause}. "
            f"Continue with: {resume_command(job.run)}"
        ) from error
    return files, reason


@contextmanager
def _saying_when_lost(jobs: Sequence[Job]) -> Iterator[None]:
    try:
        yield
    except ray.exceptions.RayError as error:
        raise RunError(
            f"the Ray cluster was lost: {error}. Continue with: {resume_command(jobs[0].run)}"
        ) from error


@contextmanager
def _connected(address: str | None) -> Iterator[None]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    handler = signal.getsignal(signal.SIGTERM)
    try:
        _require_listener(address)
        ray.init(address=address or "local", log_to_driver=False, logging_level=logging.WARNING)
    except (OSError, RuntimeError, ValueError) as error:
        where = f"there is no Ray cluster at {address}" if address else "Ray does not start on this machine"
        raise RunError(f"{where}: {error}") from error
    finally:
        signal.signal(signal.SIGTERM, handler)  # Ray sets its own, which would end the process without a word
    try:
        yield
    finally:
        ray.shutdown()


def _require_listener(address: str | None) -> None:
    """Find out soon whether anything listens at a host and port; Ray would try for minutes."""
    host, _, port = (address or "").rpartition(":")
    if port.isdigit() and "/" not in host:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()


def _folder_of(job: Job) -> Path:
    return Run.open(job.run).member_folder(job.member)


def _pack(folder: Path) -> Files:
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.is_dir() else {}


def _unpack(files: Files, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    # The checkpoint last: whoever finds it may rely on the rest.
    for name in sorted(files, key=lambda name: name == CHECKPOINT_FILE):
        write_bytes_whole(folder / name, files[name])
    if STATE_FILE not in files:  # the member is done, and where it went on from is no longer wanted
        (folder / STATE_FILE).unlink(missing_ok=True)
