"""A candidate runs on a sample of the calls that another version answers, and what both say is compared.

Callers never wait for it: it begins once their answer is there, one member at a time where a core is free and no
call wants it. Where none is free it is dropped, and counted as such.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import numpy as np
import structlog

from serving.batch import Effort
from serving.ensemble import Pixels
from serving.inference import InferenceThreads
from serving.metrics.rollout import RolloutMetrics
from serving.verdict import Floats, Verdict

if TYPE_CHECKING:
    from serving.models import Model

log = structlog.get_logger()


class Shadow:
    """Compares a candidate with the version that is live."""

    def __init__(
        self, live: Model, candidate: Model, share: float, threads: InferenceThreads, metrics: RolloutMetrics
    ) -> None:
        """Prepare to sample a share, 0..1, of the calls that `live` answers."""
        self.candidate = candidate
        self.labels = live.manifest.class_labels
        self.live_members = len(live.manifest.members)
        pair = (live.manifest.name, str(live.manifest.version), str(candidate.manifest.version))
        outcomes = ("compared", "dropped", "failed")
        self.calls = {outcome: metrics.shadow_calls.labels(*pair, outcome) for outcome in outcomes}
        self.images = {same: metrics.shadow_images.labels(*pair, str(same).lower()) for same in (True, False)}
        self.difference = metrics.shadow_difference.labels(*pair)
        self._share = share
        self._threads = threads

    def offer(self, pixels: Pixels, effort: Effort, verdict: Verdict) -> None:
        """Maybe show the candidate a call that was answered; never waits, never fails."""
        if random.random() < self._share:  # noqa: S311  a sample, no secret
            comparison = Comparison(self, self._threads, pixels, effort, verdict)
            if not self._threads.offer(comparison.run_next_member):
                self.calls["dropped"].inc()


class Comparison:
    """One call that the candidate is shown, after it was answered."""

    def __init__(
        self, shadow: Shadow, threads: InferenceThreads, pixels: Pixels, effort: Effort, verdict: Verdict
    ) -> None:
        """Take a call's images, what was asked, and what was answered. All members are all of either."""
        self._shadow = shadow
        self._threads = threads
        self._pixels = pixels
        self._asked = effort.max_members
        self._verdict = verdict
        members = len(shadow.candidate.manifest.members)
        self._members = members if effort.max_members == shadow.live_members else min(effort.max_members, members)
        self._said: list[Floats] = []

    def run_next_member(self) -> None:
        """Run one member; afterwards offer the next, or compare."""
        try:
            self._said.append(self._shadow.candidate.run_member(len(self._said), self._pixels))
            if len(self._said) < self._members:
                self._threads.resume(self.run_next_member)
            else:
                self._compare()
        except Exception:
            log.exception("candidate failed", version=self._shadow.candidate.manifest.version)
            self._shadow.calls["failed"].inc()

    def _compare(self) -> None:
        """Classes are compared by their labels, probabilities only where both list the same classes.

        Where the call stopped early, the class is still the one that all members give, but the probabilities are
        those of fewer members: they are passed over.
        """
        shadow, candidate = self._shadow, self._shadow.candidate
        members_run = np.full(len(self._pixels), self._members)
        verdict = candidate.judge(np.stack(self._said), members_run)
        labels = candidate.manifest.class_labels
        for ours, theirs in zip(self._verdict.ranking[:, 0], verdict.ranking[:, 0], strict=True):
            shadow.images[shadow.labels[ours] == labels[theirs]].inc()
        if labels == shadow.labels:
            difference = np.abs(self._verdict.probabilities - verdict.probabilities).max(axis=1)
            for one in difference[self._verdict.members_run == self._asked].tolist():
                shadow.difference.observe(one)
        shadow.calls["compared"].inc()
