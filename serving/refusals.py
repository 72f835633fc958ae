"""Bundles and labels that were refused, and why: those that still stand, and a bounded history."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Container
from dataclasses import dataclass, field

import structlog

from serving.errors import StartupError
from serving.metrics import Metrics

MOST_REMEMBERED = 200
LABELS = 0
"""Stands for a model's labels, in place of a version."""

log = structlog.get_logger()


@dataclass(frozen=True, eq=False)
class Refusal:
    """One attempt that failed.

    Attributes:
        name: Of the model, as its folder says.
        version: Of the bundle; 0 for the model's labels.
        of: What was refused: as long as it stays the same, it is not tried again.
        error: Why.
        reason: Why, in one line that names nothing outside the models folder.
        time: When, in seconds since 1970.
    """

    name: str
    version: int
    of: object
    error: StartupError
    reason: str
    time: float = field(default_factory=time.time)


class Refusals:
    """All refusals since the server started."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics.rollout
        self._lock = threading.Lock()
        self._standing: dict[tuple[str, int], Refusal] = {}
        self._history: deque[Refusal] = deque(maxlen=MOST_REMEMBERED)

    def add(self, refusal: Refusal) -> None:
        """Remember, log and count a refusal."""
        with self._lock:
            self._standing[refusal.name, refusal.version] = refusal
            self._history.appendleft(refusal)
            self._metrics.refused.set(len(self._standing))
        self._metrics.refusals.labels(refusal.name).inc()
        log.warning("refused", name=refusal.name, version=refusal.version or "labels", reason=refusal.reason)

    def stands(self, name: str, version: int, of: object) -> bool:
        """Whether this very thing has been refused already."""
        standing = self._standing.get((name, version))
        return standing is not None and standing.of == of

    def lift(self, name: str, version: int) -> None:
        """Forget a refusal, if there is one: what it was about is accepted or gone, or is to be tried again."""
        with self._lock:
            self._standing.pop((name, version), None)
            self._metrics.refused.set(len(self._standing))

    def lift_all(self, name: str, but: Container[int] = ()) -> None:
        """Forget the refusals of a model, but for some of its versions."""
        for refusal in self.standing(name):
            if refusal.version not in but:
                self.lift(name, refusal.version)

    def standing(self, name: str | None = None) -> list[Refusal]:
        """What is refused now, of one model or of all, in order."""
        with self._lock:
            standing = sorted(self._standing.items())
        return [refusal for (owner, _), refusal in standing if name in (None, owner)]

    def history(self, name: str | None = None) -> list[Refusal]:
        """What has been refused, the newest first; the oldest are forgotten in time."""
        with self._lock:
            history = list(self._history)
        return [refusal for refusal in history if name in (None, refusal.name)]
