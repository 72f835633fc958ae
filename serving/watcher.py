"""Looks at the models folder every so often, for as long as the server runs."""

from __future__ import annotations

import threading
import time

import structlog

from serving.errors import BundleRefused, ShuttingDown
from serving.metrics import Metrics
from serving.rollout import Rollout

JOIN_SECONDS = 10.0
"""How long a load that is under way may take to finish once the server stops."""

log = structlog.get_logger()


class Watcher:
    """Keeps what is served in line with the folder. Nothing that goes wrong there ends it."""

    def __init__(self, rollout: Rollout, metrics: Metrics, seconds: float) -> None:
        """Prepare to look every `seconds`; 0 for never."""
        self._rollout = rollout
        self._failed_looks = metrics.rollout.failed_looks
        self._began: float | None = None
        metrics.rollout.look.set_function(self._look_seconds)
        self._seconds = seconds
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watcher", daemon=True)

    def start(self) -> None:
        """Begin."""
        if self._seconds:
            self._thread.start()

    def stop(self) -> None:
        """Begin nothing new."""
        self._stopped.set()

    def join(self) -> None:
        """Wait until what is under way is done."""
        if self._thread.is_alive():
            self._thread.join(JOIN_SECONDS)

    def _watch(self) -> None:
        while not self._stopped.wait(self._seconds):
            self._began = time.monotonic()
            try:
                self._rollout.refresh()
            except ShuttingDown:
                return
            except BundleRefused as error:
                self._failed_looks.inc()
                log.warning("nothing is changed", reason=str(error))
            except Exception:
                self._failed_looks.inc()
                log.exception("nothing is changed")
            finally:
                self._began = None

    def _look_seconds(self) -> float:
        began = self._began
        return 0.0 if began is None else time.monotonic() - began
