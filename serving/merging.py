"""What several processes count, as if one had: counters and histograms are added up and never go backwards.

Each worker is asked when Prometheus asks. One that does not answer in time counts with what it told last; so does,
for good, one that has ended. Of a worker's counts since it was last asked, nothing is known once it is killed.
"""

from __future__ import annotations

import operator
import threading
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

Labels = tuple[tuple[str, str], ...]
Snapshot = dict[str, dict[tuple[str, Labels], float]]
"""Values by family, then by name and labels of the sample."""

COUNTED = ("counter", "histogram")
SUMMED = {
    *("consort_in_flight_calls", "consort_queue_calls", "consort_queue_images"),
    *("process_virtual_memory_bytes", "process_resident_memory_bytes", "process_open_fds", "process_max_fds"),
}
"""Gauges of which every process has its own part."""
EARLIEST = {"process_start_time_seconds"}
"""Gauges of which the least counts. Of all others the greatest does: processes say the same there, or it warns."""

ANSWER_SECONDS = 2.0
"""How long the workers may take to answer, together."""


class Source(Protocol):
    """A process that counts."""

    def ask(self) -> None:
        """Begin to ask it for what it has counted."""

    def answer(self, seconds: float) -> Snapshot | None:
        """What it has counted; None if that does not come in so many seconds, or it has ended."""


class MergedMetrics(Collector):
    """What all processes of a server have counted together, for a registry."""

    def __init__(self, own: CollectorRegistry) -> None:
        """Begin with what this process counts, which knows every metric there is."""
        self._own = own
        self._kinds = {family.name: family.type for family in own.collect()}
        self._lock = threading.Lock()
        self._told: dict[Source, Snapshot] = {}
        self._lost: Snapshot = {}

    @property
    def sources(self) -> list[Source]:
        """The processes that are counted, beside this one."""
        return list(self._told)

    def describe(self) -> Iterable[Metric]:
        """All metrics, as far as this process knows them."""
        return self._own.collect()

    def add(self, source: Source) -> None:
        """Count one more process."""
        with self._lock:
            self._told[source] = {}

    def remove(self, source: Source) -> None:
        """Keep what a process has counted that has ended; its gauges go with it."""
        with self._lock:
            self._keep_lost(self._told.pop(source, {}), {})

    def ask_all(self) -> None:
        """Have all processes tell what they have counted."""
        with self._lock:
            self._ask_all()

    def collect(self) -> Iterable[Metric]:
        """Ask all processes, and merge what they say."""
        with self._lock:
            self._ask_all()
            self._forget_unserved()
            own = list(self._own.collect())
            merged: Snapshot = {}
            for snapshot in (take_snapshot(own), *self._told.values(), self._lost):
                self._add(merged, snapshot)
        return [_family(family, merged[family.name]) for family in own]

    def _ask_all(self) -> None:
        until = time.monotonic() + ANSWER_SECONDS
        for source in self._told:
            source.ask()
        for source, before in self._told.items():
            answer = source.answer(max(0.0, until - time.monotonic()))
            if answer is not None:
                self._keep_lost(before, answer)
                self._told[source] = answer

    def _keep_lost(self, before: Snapshot, now: Snapshot) -> None:
        """Keep counts that a process tells no more, or has begun anew: it has ended, or has unloaded a version."""
        gone: Snapshot = {}
        for name, series in before.items():
            if self._kinds.get(name) in COUNTED:
                after = now.get(name, {})
                ended = {_labels_of(key) for key, value in series.items() if after.get(key, -1.0) < value}
                gone[name] = {key: value for key, value in series.items() if _labels_of(key) in ended}
        self._add(self._lost, gone)

    def _forget_unserved(self) -> None:
        """Drop what was lost of versions that no worker has any more, as each worker does."""
        infos = (snapshot.get("consort_model_info", {}) for snapshot in self._told.values())
        served = {_version(dict(labels), "version") for info in infos for _, labels in info}
        if served:
            self._lost = {
                name: {key: value for key, value in series.items() if _versions(key[1]) <= served}
                for name, series in self._lost.items()
            }

    def _add(self, total: Snapshot, more: Snapshot) -> None:
        for name, series in more.items():
            into = total.setdefault(name, {})
            for key, value in series.items():
                into[key] = self._rule(name, key[0])(into[key], value) if key in into else value

    def _rule(self, family: str, sample: str) -> Callable[[float, float], float]:
        if sample.endswith("_created") or family in EARLIEST:
            return min
        return operator.add if self._kinds.get(family) in COUNTED or family in SUMMED else max


def take_snapshot(families: Iterable[Metric]) -> Snapshot:
    """What a process has counted until now."""
    return {
        family.name: {(sample.name, tuple(sample.labels.items())): sample.value for sample in family.samples}
        for family in families
    }


def _family(family: Metric, series: dict[tuple[str, Labels], float]) -> Metric:
    merged = Metric(family.name, family.documentation, family.type)
    for (name, labels), value in series.items():
        merged.add_sample(name, dict(labels), value)
    return merged


def _labels_of(key: tuple[str, Labels]) -> Labels:
    """What all samples of one counter, or one histogram with its buckets, share."""
    return tuple(label for label in key[1] if label[0] != "le")


def _versions(labels: Labels) -> set[tuple[str, str]]:
    """The versions that a series is about: none, one, or with a candidate two."""
    named = dict(labels)
    return {_version(named, label) for label in ("version", "candidate") if label in named}


def _version(labels: dict[str, str], label: str) -> tuple[str, str]:
    return labels["model"], labels[label]
