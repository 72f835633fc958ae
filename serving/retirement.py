"""Models that no new call finds are closed once every call that may have found them has ended."""

from __future__ import annotations

import threading

import structlog

from serving.admission import Admission
from serving.metrics import Metrics
from serving.models import Model

LOOK_SECONDS = 0.02

log = structlog.get_logger()


class Retirement:
    """Waits for calls in progress, each retired model on a thread of its own, so that nothing else waits.

    A call has its place in `Admission` before it looks a model up. Once a model is off the table, only calls that
    hold a place already can have found it; when those have ended, it is idle.
    """

    def __init__(self, admission: Admission, metrics: Metrics) -> None:
        self._admission = admission
        self._metrics = metrics
        self._closing = threading.Event()
        self._threads: set[threading.Thread] = set()

    def retire(self, model: Model) -> None:
        """Close a model that is off the table, as soon as it is idle."""
        name = f"retire-{model.manifest.name}-{model.manifest.version}"
        thread = threading.Thread(target=self._close_once_idle, args=(model,), name=name, daemon=True)
        self._threads.add(thread)
        thread.start()

    def close(self) -> None:
        """Wait no longer: there are no more calls."""
        self._closing.set()
        for thread in self._threads.copy():
            thread.join()

    def _close_once_idle(self, model: Model) -> None:
        calls = self._admission.in_progress()
        while calls & self._admission.in_progress() or not model.batcher.is_idle():
            if self._closing.wait(LOOK_SECONDS):
                break
        model.batcher.leave()
        self._metrics.models.forget(model.manifest)
        self._metrics.rollout.unloads.labels(model.manifest.name).inc()
        log.info("model unloaded", name=model.manifest.name, version=model.manifest.version)
        self._threads.discard(threading.current_thread())
