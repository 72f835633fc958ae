"""What Prometheus sees. Times are histograms in seconds, fine enough for calls well below a millisecond."""

from __future__ import annotations

import threading
from collections import Counter as Tally
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, GCCollector, Histogram, ProcessCollector

from export.manifest import Manifest
from serving.rollout_metrics import RolloutMetrics
from serving.verdict import Verdict

SECONDS = (
    *(50e-6, 100e-6, 200e-6, 300e-6, 500e-6, 700e-6),
    *(1e-3, 1.5e-3, 2e-3, 3e-3, 5e-3, 7e-3, 10e-3, 15e-3, 20e-3, 30e-3, 50e-3, 70e-3),
    *(0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0),
)
"""Upper bounds of the time buckets, from 50 microseconds to 10 seconds."""
IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
"""Upper bounds of the batch size buckets."""
SHARES = (0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.999)
"""Upper bounds of the agreement buckets; full agreement alone lies above the last."""

MODEL = ("model", "version")
"""Labels of whatever is counted for each version of each model."""
STAGES = ("decode", "queue", "inference", "total")
"""Of a call that asks a model; each is a field `<stage>_seconds` of its timing."""


@dataclass(frozen=True)
class Timing:
    """Where a call's time went inside the server, from its arrival until its reply is ready, in seconds."""

    decode_seconds: float
    queue_seconds: float
    inference_seconds: float
    total_seconds: float


class Metrics:
    """All metrics of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        seconds = partial(Histogram, buckets=SECONDS, registry=self.registry)
        gauge = partial(Gauge, registry=self.registry)
        self.call_seconds = seconds(
            "consort_call_seconds",
            "Time from a call's arrival to its answer, by method and gRPC status code.",
            ("method", "code"),
        )
        self.in_flight = gauge("consort_in_flight_calls", "Calls in progress.", ("method",))
        self.stage_seconds = seconds(
            "consort_stage_seconds",
            "Time of calls that ask a model, by stage: decode, queue, inference, total.",
            (*MODEL, "stage"),
        )
        self.member_seconds = seconds(
            "consort_member_inference_seconds", "Time that one member takes for one batch.", (*MODEL, "member")
        )
        self.batch_images = Histogram(
            "consort_batch_images", "Images that ran together.", MODEL, buckets=IMAGES, registry=self.registry
        )
        self.predictions = Counter(
            "consort_predictions_total",
            "Images answered, by top class.",
            (*MODEL, "class_label"),
            registry=self.registry,
        )
        self.agreement = Histogram(
            "consort_agreement",
            "Share of members whose top class is the ensemble's, per image.",
            MODEL,
            buckets=SHARES,
            registry=self.registry,
        )
        self.last_answer = gauge(
            "consort_last_answer_timestamp_seconds",
            "When a model last answered, in seconds since 1970; 0 if never.",
            MODEL,
        )
        self.model_info = gauge(
            "consort_model_info", "1 for each model that is served.", (*MODEL, "members", "provider")
        )
        self.refused_callers = Counter(
            "consort_refused_callers",
            "Callers refused for what they showed or did not show, by port and reason.",
            ("port", "reason"),
            registry=self.registry,
        )
        self.credential_reloads = Counter(
            "consort_credential_reloads",
            "Times that the certificate or the tokens changed and were loaded, or refused.",
            ("kind", "outcome"),
            registry=self.registry,
        )

        self.rollout = RolloutMetrics(self.registry)
        self._lock = threading.Lock()
        self._in_use: Tally[tuple[str, int]] = Tally()

    def of_model(self, manifest: Manifest, provider: str) -> ModelMetrics:
        """The metrics of one version of one model, with their labels filled in, until it is forgotten."""
        with self._lock:
            self._in_use[manifest.name, manifest.version] += 1
            return ModelMetrics(self, manifest, provider)

    def forget(self, manifest: Manifest) -> None:
        """Drop the series of a version that was unloaded, unless it has been loaded again meanwhile."""
        model = (manifest.name, manifest.version)
        with self._lock:
            self._in_use[model] -= 1
            if self._in_use[model]:
                return
            del self._in_use[model]
            labels = {"model": manifest.name, "version": str(manifest.version)}
            for metric in vars(self).values():
                if isinstance(metric, Counter | Gauge | Histogram):
                    with suppress(ValueError):  # it is not of models
                        metric.remove_by_labels(labels)
            self.rollout.forget(**labels)


class ModelMetrics:
    """Metrics with a model's labels filled in once, so that a call looks up none."""

    def __init__(self, metrics: Metrics, manifest: Manifest, provider: str) -> None:
        model = (manifest.name, str(manifest.version))
        members = range(1, len(manifest.members) + 1)
        self.stages = {stage: metrics.stage_seconds.labels(*model, stage) for stage in STAGES}
        self.members = [metrics.member_seconds.labels(*model, str(member)) for member in members]
        self.batch_images = metrics.batch_images.labels(*model)
        self.predictions = [metrics.predictions.labels(*model, label) for label in manifest.class_labels]
        self.last_answer = metrics.last_answer.labels(*model)
        self._agreement = metrics.agreement.labels(*model)
        metrics.model_info.remove_by_labels(dict(zip(MODEL, model, strict=True)))  # loaded again, maybe elsewhere
        metrics.model_info.labels(*model, str(len(manifest.members)), provider).set(1)

    def time(self, timing: Timing) -> None:
        """Record where a call's time went."""
        for stage, histogram in self.stages.items():
            histogram.observe(getattr(timing, f"{stage}_seconds"))

    def count(self, verdict: Verdict) -> None:
        """Record what was answered."""
        tops: Sequence[int] = verdict.ranking[:, 0].tolist()
        for index, images in Tally(tops).items():
            self.predictions[index].inc(images)
        for share in verdict.agreement.tolist():
            self._agreement.observe(share)
        self.last_answer.set_to_current_time()


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
