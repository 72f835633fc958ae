"""What Prometheus sees of each version of each model: its work, queue and answers, and what was to be expected."""

from __future__ import annotations

import threading
from collections import Counter as Tally
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from export.manifest import Manifest
from serving.metrics.calls import SECONDS
from serving.verdict import Verdict

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
    """Where a call's time went inside the server, from its message, parsed, to its reply, ready, in seconds."""

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


class ModelFamilies:
    """The metrics of all models, each of which has its own series of them."""

    def __init__(self, registry: CollectorRegistry, forget_more: Callable[[str, str], None]) -> None:
        """Declare them.

        Args:
            registry: Where they appear.
            forget_more: Is told as well which model and version are forgotten.
        """
        self.work = WorkFamilies(registry)
        self.queue = QueueFamilies(registry)
        self.answers = AnswerFamilies(registry)
        self.expected = ExpectedFamilies(registry)
        self.info = Gauge(
            "consort_model_info",
            "1 for each model that is served.",
            (*MODEL, "members", "provider"),
            registry=registry,
        )
        self._forget_more = forget_more
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
            name, version = manifest.name, str(manifest.version)
            for family in self._families():
                family.remove_by_labels({"model": name, "version": version})
            self._forget_more(name, version)

    def _families(self) -> Iterator[Counter | Gauge | Histogram]:
        for group in (self.work, self.queue, self.answers, self.expected):
            yield from vars(group).values()
        yield self.info


class WorkFamilies:
    """What a model does, and how long it takes."""

    def __init__(self, registry: CollectorRegistry) -> None:
        seconds = partial(Histogram, buckets=SECONDS, registry=registry)
        self.stage_seconds = seconds(
            "consort_stage_seconds",
            "Time of calls that ask a model, by stage: decode, queue, inference, total.",
            (*MODEL, "stage"),
        )
        self.member_seconds = seconds(
            "consort_member_inference_seconds", "Time that one member takes for one batch.", (*MODEL, "member")
        )
        self.batch_images = Histogram(
            "consort_batch_images", "Images that ran together.", MODEL, buckets=IMAGES, registry=registry
        )


class QueueFamilies:
    """What waits for a model."""

    def __init__(self, registry: CollectorRegistry) -> None:
        gauge = partial(Gauge, labelnames=MODEL, registry=registry)
        self.calls = gauge("consort_queue_calls", "Calls that wait.")
        self.images = gauge("consort_queue_images", "Images of the calls that wait.")
        self.oldest = gauge(
            "consort_queue_oldest_seconds", "How long the call that waits longest has waited; 0 if none waits."
        )


class AnswerFamilies:
    """What a model answers."""

    def __init__(self, registry: CollectorRegistry) -> None:
        counter = partial(Counter, registry=registry)
        self.predictions = counter(
            "consort_predictions_total", "Images answered, by top class.", (*MODEL, "class_label")
        )
        self.agreement = Histogram(
            "consort_agreement",
            "Share of members whose top class is the ensemble's, per image.",
            MODEL,
            buckets=SHARES,
            registry=registry,
        )
        self.judged = counter("consort_judged_images_total", "Images of which all members were asked.", MODEL)
        self.judged_entropy = counter(
            "consort_judged_entropy_nats_total", "Entropy of the average, summed over the images judged.", MODEL
        )
        self.judged_agreement = counter(
            "consort_judged_agreement_total", "Agreement of the members, summed over the images judged.", MODEL
        )
        self.last = Gauge(
            "consort_last_answer_timestamp_seconds",
            "When a model last answered, in seconds since 1970; 0 if never.",
            MODEL,
            registry=registry,
        )


class ExpectedFamilies:
    """What a model's answers are compared with: those on held-out images, as the bundle records them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        gauge = partial(Gauge, registry=registry)
        self.class_share = gauge(
            "consort_expected_class_share",
            "Share of held-out images of each top class, as the bundle records it.",
            (*MODEL, "class_label"),
        )
        self.entropy = gauge(
            "consort_expected_entropy_nats", "Mean entropy on held-out images, as the bundle records it.", MODEL
        )
        self.agreement = gauge(
            "consort_expected_agreement", "Mean agreement on held-out images, as the bundle records it.", MODEL
        )


class ModelMetrics:
    """Metrics with a model's labels filled in once, so that a call looks up none."""

    def __init__(self, families: ModelFamilies, manifest: Manifest, provider: str) -> None:
        model = (manifest.name, str(manifest.version))
        work, answers, queue = families.work, families.answers, families.queue
        members = range(1, len(manifest.members) + 1)
        self.stages = {stage: work.stage_seconds.labels(*model, stage) for stage in STAGES}
        self.members = [work.member_seconds.labels(*model, str(member)) for member in members]
        self.batch_images = work.batch_images.labels(*model)
        self.predictions = [answers.predictions.labels(*model, label) for label in manifest.class_labels]
        self.last_answer = answers.last.labels(*model)
        self._agreement = answers.agreement.labels(*model)
        self._judged = answers.judged.labels(*model)
        self._judged_entropy = answers.judged_entropy.labels(*model)
        self._judged_agreement = answers.judged_agreement.labels(*model)
        self._queue = (queue.calls.labels(*model), queue.images.labels(*model), queue.oldest.labels(*model))
        families.info.remove_by_labels(dict(zip(MODEL, model, strict=True)))  # loaded again, maybe elsewhere
        families.info.labels(*model, str(len(manifest.members)), provider).set(1)
        if (expected := manifest.expected) is not None:
            for label, share in zip(manifest.class_labels, expected.class_shares, strict=True):
                families.expected.class_share.labels(*model, label).set(share)
            families.expected.entropy.labels(*model).set(expected.entropy)
            families.expected.agreement.labels(*model).set(expected.agreement)

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

    def count(self, verdict: Verdict, *, asked_all: bool) -> None:
        """Record what was answered; where all members were asked, also what held-out images are compared with.

        Fewer members agree more easily, and with early stop all of them see none but the hardest images.
        """
        tops: Sequence[int] = verdict.ranking[:, 0].tolist()
        for index, images in Tally(tops).items():
            self.predictions[index].inc(images)
        shares: Sequence[float] = verdict.agreement.tolist()
        for share in shares:
            self._agreement.observe(share)
        if asked_all:
            self._judged.inc(len(tops))
            # Rounding can leave the entropy of a sure answer a hair below 0, which no counter takes.
            self._judged_entropy.inc(max(0.0, sum(verdict.entropy.tolist())))
            self._judged_agreement.inc(sum(shares))
        self.last_answer.set_to_current_time()
