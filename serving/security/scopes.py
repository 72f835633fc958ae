"""What a token allows: the one table from method to scope."""

from __future__ import annotations

from enum import StrEnum


class Scope(StrEnum):
    """What a token may be used for; none includes another."""

    CLASSIFY = "classify"
    """Ask models, and ask about them."""
    ADMIN = "admin"
    """Change what is served, and whatever no line below names."""
    METRICS = "metrics"
    """Read the metrics port."""


STRICTEST = Scope.ADMIN
"""Of methods that the table does not know, whether the server has them or not: a caller learns no difference."""

OPEN_SERVICE = "grpc.health.v1.Health"
"""Answers without a token: what asks whether a process lives must not need a secret for it."""

_CLASSIFY = {
    "consort.v1.Classifier": ("Classify", "ListModels", "GetModel"),
    "inference.GRPCInferenceService": (
        *("ServerLive", "ServerReady", "ServerMetadata"),
        *("ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics", "ModelInfer"),
    ),
    "grpc.reflection.v1alpha.ServerReflection": ("ServerReflectionInfo",),
}
SCOPES = {f"/{service}/{method}": Scope.CLASSIFY for service, methods in _CLASSIFY.items() for method in methods}
"""By full name of the method."""


def scope_of(method: str) -> Scope | None:
    """The scope that a call of a method needs, such as /consort.v1.Classifier/Classify; None if it needs none."""
    if method.startswith(f"/{OPEN_SERVICE}/"):
        return None
    return SCOPES.get(method, STRICTEST)
