"""What Prometheus sees of models that come and go, and of a candidate beside the version that is live."""

from __future__ import annotations

from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

PAIR = ("model", "version", "candidate")
"""A model, its version that answers, and its version that is compared with it."""
DIFFERENCES = (1e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Upper bounds of the buckets for differences between probabilities."""


class RolloutMetrics:
    """Metrics of loading, refusing, unloading and comparing."""

    def __init__(self, registry: CollectorRegistry) -> None:
        counter = partial(Counter, registry=registry)
        self.loads = counter(
            "consort_model_loads_total", "Bundles proved and loaded, at start and later.", ("model",)
        )
        self.unloads = counter("consort_model_unloads_total", "Versions unloaded once idle.", ("model",))
        self.refusals = counter(
            "consort_bundle_refusals_total", "Bundles, and files of labels, that were refused.", ("model",)
        )
        self.refused = Gauge(
            "consort_refused_bundles", "Bundles, and files of labels, that are refused now.", registry=registry
        )
        self.kept = counter(
            "consort_kept_models_total",
            "Models whose last version was removed from the folder, and which are served on.",
            ("model",),
        )
        self.failed_looks = counter(
            "consort_failed_looks_total", "Looks at the models folder that came to nothing; nothing was changed."
        )
        self.look = Gauge(
            "consort_look_seconds",
            "How long the look at the models folder that is under way has taken, loads included; 0 if none is.",
            registry=registry,
        )
        self.shadow_calls = counter(
            "consort_shadow_calls_total",
            "Calls sampled for the candidate: compared, dropped because no core was free, or failed.",
            (*PAIR, "outcome"),
        )
        self.shadow_images = counter(
            "consort_shadow_images_total",
            "Images that both have classified, by whether the classes are the same.",
            (*PAIR, "same_class"),
        )
        self.shadow_difference = Histogram(
            "consort_shadow_difference",
            "Largest absolute difference between both versions' probabilities, per image.",
            PAIR,
            buckets=DIFFERENCES,
            registry=registry,
        )

    def forget(self, model: str, version: str) -> None:
        """Drop the series of a version that is gone."""
        for metric in (self.shadow_calls, self.shadow_images, self.shadow_difference):
            for label in ("version", "candidate"):
                metric.remove_by_labels({"model": model, label: version})
