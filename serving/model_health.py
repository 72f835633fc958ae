"""Each model's health under its own name in grpc.health.v1, beside that of server and services.

Models' names are lower case and services' are not, so that neither can be taken for the other.
"""

from __future__ import annotations

from collections.abc import Collection

from serving.readiness import NOT_SERVING, SERVING, Health


class ModelHealth:
    """Tells those who ask, or watch, which models are served."""

    def __init__(self, servicer: Health) -> None:
        self._servicer = servicer
        self._served: set[str] = set()

    def report(self, served: Collection[str]) -> None:
        """Say SERVING of these models, and NOT_SERVING of those that were served before."""
        for name in sorted(self._served - set(served)):
            self._servicer.set(name, NOT_SERVING)
        for name in sorted(set(served) - self._served):
            self._servicer.set(name, SERVING)
        self._served = set(served)
