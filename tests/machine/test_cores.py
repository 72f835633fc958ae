"""Threads are sized from what the kernel grants, not from what the host has."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from machine.cores import available_cores, read_quota


@pytest.fixture(autouse=True)
def _sixteen_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))


def write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def cores(root: Path, own_cgroups: str) -> int:
    write(root / "self", own_cgroups)
    return available_cores(root / "cgroup", root / "self")


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ("max 100000", 16),
        ("200000 100000", 2),
        ("250000 100000", 2),
        ("50000 100000", 1),
        ("9900000 100000", 16),
    ],
)
def test_cgroup_v2_quota(tmp_path: Path, quota: str, expected: int) -> None:
    write(tmp_path / "cgroup/cpu.max", quota + "\n")
    assert cores(tmp_path, "0::/\n") == expected


def test_a_quota_further_up_counts_as_well(tmp_path: Path) -> None:
    write(tmp_path / "cgroup/pod/cpu.max", "300000 100000")
    write(tmp_path / "cgroup/pod/container/cpu.max", "max 100000")
    assert cores(tmp_path, "0::/pod/container\n") == 3


@pytest.mark.parametrize(("quota", "expected"), [("-1", 16), ("400000", 4)])
def test_cgroup_v1_quota(tmp_path: Path, quota: str, expected: int) -> None:
    write(tmp_path / "cgroup/cpu/job/cpu.cfs_quota_us", quota)
    write(tmp_path / "cgroup/cpu/job/cpu.cfs_period_us", "100000")
    assert cores(tmp_path, "5:memory:/job\n4:cpu,cpuacct:/job\n") == expected


def test_without_cgroups_affinity_alone_counts(tmp_path: Path) -> None:
    assert available_cores(tmp_path / "cgroup", tmp_path / "missing") == 16


def test_a_group_without_limits_has_no_quota(tmp_path: Path) -> None:
    assert read_quota(tmp_path) is None
