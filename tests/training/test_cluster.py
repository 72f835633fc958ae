"""A real Ray cluster of two nodes trains the members; one node is killed, and nothing is lost but time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.test_launch import Ledger, weights
from training.command import EXIT_INTERRUPTED, TrainingCommand
from training.errors import RunError
from training.fit import main
from training.launch import Job, jobs_of
from training.member import CHECKPOINT_FILE, STATE_FILE, EpochMetrics
from training.run import SETTINGS_FILE, Run
from training.sources import load_dataset

pytest.importorskip("ray", reason="the extra `ray` is not installed")
import ray
from ray.cluster_utils import Cluster

from training import cluster as cluster_module
from training.cluster import _unpack, train_on_ray

EPOCHS = 150
MEMBERS = ["--architecture", "linear", "--members", "3", "--threads", "1", "--precision", "float32"]
MEMORY = 150_000_000
START_SECONDS = 120


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """One node of one CPU, which the tests connect to, and time to start it in, however busy the machine is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_gcs_server_port_wait_time_s", str(START_SECONDS))
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": MEMORY})
    yield cluster
    ray.shutdown()
    cluster.shutdown()  # type: ignore[no-untyped-call]


def fit(data: Path, run: Path, *more: str) -> int:
    return main(["--data", str(data), "--run", str(run), *MEMBERS, "--epochs", str(EPOCHS), *more])


def begin(data: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as stopped:
        stopped.setattr(TrainingCommand, "train", stop)
        assert fit(data, run) == EXIT_INTERRUPTED
    return Run.open(run)


def test_a_lost_node_costs_time_and_nothing_else(
    cluster: Cluster, drawn_digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two members learn at once, one on each node; the second is killed; the weights are the local ones."""
    second = cluster.add_node(num_cpus=1, object_store_memory=MEMORY)
    cluster.wait_for_nodes(START_SECONDS)

    class NodeKiller(Ledger):
        killed_at: dict[Job, int] | None = None

        def epoch(self, job: Job, metrics: EpochMetrics) -> None:
            super().epoch(job, metrics)
            if self.killed_at is None and len(self.epochs) == 2:  # one on each node
                self.killed_at = {job: epochs[-1] for job, epochs in self.epochs.items()}
                cluster.remove_node(second, allow_graceful=False)

    run = begin(drawn_digits, tmp_path / "ray", monkeypatch)
    killer = NodeKiller()
    assert train_on_ray(jobs_of(run), load_dataset(drawn_digits), cluster.address, killer) == {}
    assert killer.killed_at is not None
    assert max(killer.killed_at.values()) < EPOCHS, "the node went when its member was done"
    assert sum(epochs.count(1) for epochs in killer.epochs.values()) == 4, "one of three members began again"

    assert fit(drawn_digits, tmp_path / "local", "--processes", "1") == 0
    for member in (1, 2, 3):
        one, other = weights(run.folder, member), weights(tmp_path / "local", member)
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert main(["--resume", str(run.folder), "--processes", "1"]) == 0, "the run is ready to be summed up"


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"threads": 999}, "a member needs 999 processors and the cluster's largest node has 1; name --threads"),
        ({"device": "cuda"}, "the members learn on a GPU, and no node of the cluster has one; name --device cpu"),
    ],
)
def test_members_that_fit_no_node_are_refused_and_do_not_wait(
    settings: dict[str, object],
    reason: str,
    cluster: Cluster,
    drawn_digits: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = begin(drawn_digits, tmp_path / "run", monkeypatch)
    changed = run.settings.model_copy(update=settings)
    (run.folder / SETTINGS_FILE).write_text(changed.model_dump_json())
    with pytest.raises(RunError, match=reason):
        train_on_ray(jobs_of(run), load_dataset(drawn_digits), cluster.address, Ledger())


def test_what_a_member_went_on_from_is_gone_once_it_is_done(tmp_path: Path) -> None:
    """Where processes began it and a task finished it."""
    (tmp_path / STATE_FILE).write_bytes(b"half way")
    _unpack({CHECKPOINT_FILE: b"weights"}, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [CHECKPOINT_FILE]


def test_no_cluster_is_said(drawn_digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit(drawn_digits, tmp_path / "run", "--launcher", "ray", "--ray-address", "127.0.0.1:1") == 1
    assert "there is no Ray cluster at 127.0.0.1:1" in capsys.readouterr().err


def test_members_that_are_done_are_kept_when_another_fails(
    cluster: Cluster, drawn_digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begin(drawn_digits, tmp_path / "run", monkeypatch)
    result_of = cluster_module._result_of

    def lose_the_first(task: Any, job: Job) -> Any:
        if job.member == 1:
            raise RunError("a node was lost too often")
        return result_of(task, job)

    monkeypatch.setattr(cluster_module, "_result_of", lose_the_first)
    monkeypatch.setattr(cluster_module, "POLL_SECONDS", START_SECONDS)  # until all are done
    with pytest.raises(RunError, match="a node was lost too often"):
        train_on_ray(jobs_of(run), load_dataset(drawn_digits), cluster.address, Ledger())
    assert [run.is_trained(member) for member in (1, 2, 3)] == [False, True, True]


def test_a_cluster_that_is_lost_is_said(
    cluster: Cluster, drawn_digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begin(drawn_digits, tmp_path / "run", monkeypatch)

    def lose(*_: object, **__: object) -> None:
        raise ray.exceptions.RaySystemError("its head does not answer")  # type: ignore[no-untyped-call]

    monkeypatch.setattr(ray, "wait", lose)
    with pytest.raises(
        RunError, match=r"the Ray cluster was lost: .*its head .* Continue with: python -m training"
    ):
        train_on_ray(jobs_of(run), load_dataset(drawn_digits), cluster.address, Ledger())
