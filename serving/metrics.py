"""What Prometheus sees. Times are histograms in seconds, fine enough for calls well below a millisecond."""

from __future__ import annotations

import threading
from collections import Counter as Tally
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import grpc
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


@dataclass(frozen=True)
class Waiting:
    """What waits in a queue: calls, the images in them, and for how long the first has waited, 0 if none does."""

    calls: int
    images: int
    oldest_seconds: float


class Metrics:
    """All metrics of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        seconds = partial(Histogram, buckets=SECONDS, registry=self.registry)
        gauge = partial(Gauge, registry=self.registry)
        counter = partial(Counter, registry=self.registry)
        self.call_seconds = seconds(
            "consort_call_seconds",
            "Time from a call's arrival to its answer, by method and gRPC status code.",
            ("method", "code"),
        )
        self.arrived = counter(
            "consort_arrived_calls_total",
            "Calls that came in. Unary ones that are neither in consort_call_seconds nor in progress were ended "
            "by gRPC itself: too large, or left before a thread was free.",
            ("method",),
        )
        self.refused = counter(
            "consort_refused_calls_total", "Calls that were refused, by method and reason.", ("method", "reason")
        )
        self.gone = counter(
            "consort_gone_calls_total",
            "Calls whose caller cancelled or whose deadline expired before the answer; dropped before they ran, "
            "or run for nobody.",
            ("method", "reason", "outcome"),
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
        self.queue_calls = gauge("consort_queue_calls", "Calls that wait.", MODEL)
        self.queue_images = gauge("consort_queue_images", "Images of the calls that wait.", MODEL)
        self.queue_oldest = gauge(
            "consort_queue_oldest_seconds",
            "How long the call that waits longest has waited; 0 if none waits.",
            MODEL,
        )
        self.predictions = counter(
            "consort_predictions_total", "Images answered, by top class.", (*MODEL, "class_label")
        )
        self.judged = counter("consort_judged_images_total", "Images that all members looked at.", MODEL)
        self.judged_entropy = counter(
            "consort_judged_entropy_nats_total", "Entropy of the average, summed over the images judged.", MODEL
        )
        self.judged_agreement = counter(
            "consort_judged_agreement_total", "Agreement of the members, summed over the images judged.", MODEL
        )
        self.expected_class_share = gauge(
            "consort_expected_class_share",
            "Share of held-out images of each top class, as the bundle records it.",
            (*MODEL, "class_label"),
        )
        self.expected_entropy = gauge(
            "consort_expected_entropy_nats", "Mean entropy on held-out images, as the bundle records it.", MODEL
        )
        self.expected_agreement = gauge(
            "consort_expected_agreement", "Mean agreement on held-out images, as the bundle records it.", MODEL
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

    def count_gone(self, method: str, code: grpc.StatusCode, *, ran: bool) -> None:
        """Count a call that nobody waits for any more, by the status that says why."""
        reason = "expired" if code is grpc.StatusCode.DEADLINE_EXCEEDED else "cancelled"
        self.gone.labels(method, reason, "ran" if ran else "dropped").inc()

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
        self._all_members = len(members)
        self._judged = metrics.judged.labels(*model)
        self._judged_entropy = metrics.judged_entropy.labels(*model)
        self._judged_agreement = metrics.judged_agreement.labels(*model)
        self._queue = (
            metrics.queue_calls.labels(*model),
            metrics.queue_images.labels(*model),
            metrics.queue_oldest.labels(*model),
        )
        metrics.model_info.remove_by_labels(dict(zip(MODEL, model, strict=True)))  # loaded again, maybe elsewhere
        metrics.model_info.labels(*model, str(len(manifest.members)), provider).set(1)
        if (expected := manifest.expected) is not None:
            for label, share in zip(manifest.class_labels, expected.class_shares, strict=True):
                metrics.expected_class_share.labels(*model, label).set(share)
            metrics.expected_entropy.labels(*model).set(expected.entropy)
            metrics.expected_agreement.labels(*model).set(expected.agreement)

    def watch_queue(self, waiting: Callable[[], Waiting]) -> None:
        """Ask for what waits whenever Prometheus does."""
        calls, images, oldest = self._queue
        calls.set_function(lambda: waiting().calls)
        images.set_function(lambda: waiting().images)
        oldest.set_function(lambda: waiting().oldest_seconds)

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
        self._count_judged(verdict)
        self.last_answer.set_to_current_time()

    def _count_judged(self, verdict: Verdict) -> None:
        """Fewer members agree more easily: only where all ran is it to be compared with held-out images."""
        of_images = zip(
            verdict.members_run.tolist(), verdict.entropy.tolist(), verdict.agreement.tolist(), strict=True
        )
        judged = [(entropy, agreement) for ran, entropy, agreement in of_images if ran == self._all_members]
        if judged:
            self._judged.inc(len(judged))
            # Rounding can leave the entropy of a sure answer a hair below 0, which no counter takes.
            self._judged_entropy.inc(max(0.0, sum(entropy for entropy, _ in judged)))
            self._judged_agreement.inc(sum(agreement for _, agreement in judged))


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
