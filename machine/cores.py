"""How many processor cores this process may really use.

The host's count is wrong inside a container: a quota of two cores on a host of 64 would get 64 threads, which
the kernel stops together for most of each period. So the smallest of three limits counts: the affinity mask, the
cgroup v2 quota (`cpu.max`) and the cgroup v1 quota (`cpu.cfs_quota_us`), of this group and all above it.
See the kernel's documentation, admin-guide/cgroup-v2 and scheduler/sched-bwc.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

CGROUP_ROOT = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")


def available_cores(cgroup_root: Path = CGROUP_ROOT, own_cgroups: Path = OWN_CGROUPS) -> int:
    """Whole cores that affinity and quota allow, at least 1."""
    # Only Linux knows affinity, and only Linux has control groups.
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for group in _groups(cgroup_root, own_cgroups) if (quota := read_quota(group)) is not None]
    return max(1, int(min([affinity, *quotas])))


def read_quota(group: Path) -> float | None:
    """Cores that one control group may use, or None where it sets no limit."""
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota = (group / "cpu.cfs_quota_us").read_text()
            period = (group / "cpu.cfs_period_us").read_text()
    except OSError:
        return None
    return None if quota == "max" or int(quota) <= 0 else int(quota) / int(period)


def _groups(root: Path, own_cgroups: Path) -> Iterator[Path]:
    """The control groups of this process, each with the groups above it, in v2 and v1 layouts."""
    try:
        lines = own_cgroups.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = root / "cpu" if controllers else root
        group = mount / path.lstrip("/")
        yield from (parent for parent in (group, *group.parents) if parent.is_relative_to(mount))
