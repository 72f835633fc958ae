"""What Prometheus sees of one server, by subject."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, GCCollector, Histogram, ProcessCollector

from serving.metrics.callers import CallerMetrics
from serving.metrics.calls import CallMetrics
from serving.metrics.models import ModelFamilies
from serving.metrics.rollout import RolloutMetrics


class Metrics:
    """All metrics of one server, in a registry of their own.

    Attributes:
        registry: What Prometheus is shown.
        calls: Calls of all methods.
        models: What is counted for each version of each model.
        callers: Callers refused, and what they are told apart by.
        rollout: Models that come and go.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self.calls = CallMetrics(self.registry)
        self.rollout = RolloutMetrics(self.registry)
        self.models = ModelFamilies(self.registry, self.rollout.forget)
        self.callers = CallerMetrics(self.registry)


def read_metric(metric: Counter | Gauge | Histogram) -> dict[str, float]:
    """What Prometheus would see of a metric whose labels are filled in.

    Returns:
        A histogram's `count` and `sum`, a counter's `total`, a gauge's value under the empty name.
    """
    (family,) = metric.collect()
    return {
        sample.name.removeprefix(family.name).removeprefix("_"): sample.value
        for sample in family.samples
        if not sample.labels  # the buckets have their bounds as labels
    }
