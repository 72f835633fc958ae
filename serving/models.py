"""One version of one model, loaded and proved: its ensemble, the queue in front of it, and what is counted."""

from __future__ import annotations

import threading
import time

import structlog

from export.manifest import Manifest
from serving.batcher import Batcher
from serving.ensemble import Ensemble, Pixels, load_ensemble
from serving.errors import BundleRefused, ShuttingDown
from serving.inference import InferenceThreads
from serving.metrics import Metrics
from serving.repository import Bundle
from serving.settings import ServerSettings
from serving.shadow import Shadow
from serving.verdict import Counts, Floats, Verdict, judge

log = structlog.get_logger()


class Model:
    """One version of one model: its ensemble, the queue in front of it, and what is counted about both.

    A call keeps the one that it found until it is answered, whatever is loaded or unloaded meanwhile.
    """

    def __init__(
        self, ensemble: Ensemble, threads: InferenceThreads, metrics: Metrics, settings: ServerSettings
    ) -> None:
        self.manifest: Manifest = ensemble.manifest
        self.provider = ensemble.provider
        self.metrics = metrics.models.of_model(ensemble.manifest, ensemble.provider)
        self.shadow: Shadow | None = None
        """Where a candidate is run on a sample of the calls."""
        self._ensemble = ensemble
        self.batcher = Batcher(
            self,
            threads,
            max_batch_images=settings.max_batch_images,
            max_queue_images=settings.max_queue_images,
            max_delay_seconds=settings.max_delay_seconds,
        )
        self.metrics.watch_queue(self.batcher.waiting)

    def run_member(self, member: int, pixels: Pixels) -> Floats:
        """What member `member`, counted from 0, says; see `Ensemble.run_member`."""
        started = time.perf_counter()
        probabilities = self._ensemble.run_member(member, pixels)
        self.metrics.members[member].observe(time.perf_counter() - started)
        return probabilities

    def judge(self, members: Floats, members_run: Counts) -> Verdict:
        """Average what the members say, at the bundle's temperature; see `serving.verdict.judge`."""
        return judge(members, members_run, self.manifest.averaging.temperature)

    def observe_batch(self, images: int) -> None:
        """Count a batch of so many images."""
        self.metrics.batch_images.observe(images)


class Loader:
    """Makes models of bundles."""

    def __init__(self, settings: ServerSettings, threads: InferenceThreads, metrics: Metrics) -> None:
        self._settings = settings
        self._threads = threads
        self._metrics = metrics
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Begin no load any more."""
        self._stopped.set()

    def load(self, bundle: Bundle, beside: Model | None) -> Model:
        """Load and prove a bundle; beside a version that is live, warm it up as well.

        Raises:
            BundleRefused: A proof fails, or the bundle takes other images than the version that is live.
            ProviderInactive: The provider does not run a member.
            ShuttingDown: `stop` was called.
        """
        if self._stopped.is_set():
            raise ShuttingDown("the server is shutting down")
        started = time.perf_counter()
        ensemble = load_ensemble(bundle.folder, self._settings.provider)
        if beside is not None:
            _check_same_input(ensemble.manifest, beside.manifest)
            ensemble.time_batch()
        model = Model(ensemble, self._threads, self._metrics, self._settings)
        self._metrics.rollout.loads.labels(bundle.name).inc()
        log.info(
            "model loaded",
            name=bundle.name,
            version=bundle.version,
            provider=model.provider,
            members=len(model.manifest.members),
            classes=len(model.manifest.class_labels),
            test_accuracy=model.manifest.test.accuracy,
            seconds=round(time.perf_counter() - started, 3),
        )
        return model


def _check_same_input(new: Manifest, live: Manifest) -> None:
    """Callers who name no version must not find their images refused from one call to the next."""
    if new.input != live.input:
        found, expected = ("x".join(map(str, one.input.shape)) for one in (new, live))
        raise BundleRefused(
            f"{new.name}/{new.version} takes images of {found}, version {live.version} that is served takes "
            f"{expected}; give it a name of its own, or unload the model first"
        )
