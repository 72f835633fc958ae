"""Which model a call means: by name, and by version, by label, or by neither.

Calls read one table that never changes; when models come or go, another table takes its place in one step.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import structlog

from serving.errors import InvalidRequest, UnknownModel, quote
from serving.labels import CANARY, STABLE
from serving.models import Model

log = structlog.get_logger()


@dataclass(frozen=True, eq=False)
class Versions:
    """The versions of one model that are served, at least one.

    Attributes:
        by_number: All of them.
        by_label: Those that have a label.
    """

    by_number: Mapping[int, Model]
    by_label: Mapping[str, Model]

    @property
    def default(self) -> Model:
        """What answers calls that name neither version nor label: the stable one, or else the latest."""
        return self.by_label.get(STABLE) or self.by_number[max(self.by_number)]

    @property
    def candidate(self) -> Model | None:
        """The version labelled canary, if it is another than the default."""
        candidate = self.by_label.get(CANARY)
        return None if candidate is self.default else candidate


class Models:
    """All models that are served."""

    def __init__(self, default_model: str | None, canary_share: float) -> None:
        """Begin with none.

        Args:
            default_model: Name that calls mean which name none.
            canary_share: Share of calls to a default version that go to the candidate instead, 0..1.
        """
        self._table: Mapping[str, Versions] = {}
        self._defaults: Mapping[str, tuple[Model, Model | None]] = {}
        self.default_name = default_model
        self._canary_share = canary_share

    def __iter__(self) -> Iterator[Model]:
        """By name, then by version."""
        for _, versions in sorted(self._table.items()):
            yield from (model for _, model in sorted(versions.by_number.items()))

    def publish(self, table: Mapping[str, Versions]) -> None:
        """Let calls from now on find these models, and no others."""
        share = self._canary_share
        self._defaults = {
            name: (versions.default, versions.candidate if share else None) for name, versions in table.items()
        }
        self._table = table

    def settle_default(self) -> None:
        """Have calls that name no model mean the only one there is now, whatever comes later."""
        if self.default_name is None and len(self._table) == 1:
            (self.default_name,) = self._table

    def find(self, name: str, version: int = 0, label: str = "") -> Model:
        """The model that a call asks about.

        Args:
            name: Empty for the default model.
            version: 0 for none in particular.
            label: Empty for none in particular.

        Raises:
            UnknownModel: It is not served.
            InvalidRequest: Both version and label are named.
        """
        found, _ = self._find(name, version, label)
        return found

    def choose(self, name: str, version: int = 0, label: str = "") -> Model:
        """The model that answers a call: the one that `find` finds, or a candidate in its place for its share.

        Raises:
            UnknownModel: It is not served.
            InvalidRequest: Both version and label are named.
        """
        found, candidate = self._find(name, version, label)
        if candidate is not None and random.random() < self._canary_share:  # noqa: S311  a share, no secret
            return candidate
        return found

    def is_default(self, model: Model) -> bool:
        """Whether calls that name neither version nor label get this one, but for a candidate's share."""
        versions = self._table.get(model.manifest.name)
        return versions is not None and model is versions.default

    def labels_of(self, model: Model) -> list[str]:
        """The labels of a version, in order."""
        versions = self._table.get(model.manifest.name)
        labels = versions.by_label if versions else {}
        return sorted(label for label, labelled in labels.items() if labelled is model)

    def _find(self, name: str, version: int, label: str) -> tuple[Model, Model | None]:
        """The model that is meant, and the candidate that may answer in its place."""
        chosen = name or self.default_name
        if chosen is None:
            raise UnknownModel(f"the request names no model, and none is the default; there are {self._names()}")
        if version or label:
            return self._find_exactly(chosen, version, label), None
        found = self._defaults.get(chosen)
        if found is None:
            raise self._unknown(chosen)
        return found

    def _find_exactly(self, name: str, version: int, label: str) -> Model:
        if version and label:
            raise InvalidRequest(
                f"the request names version {version} and label {quote(label)}, expected at most one"
            )
        versions = self._table.get(name)
        if versions is None:
            raise self._unknown(name)
        if label:
            if label not in versions.by_label:
                labels = ", ".join(sorted(versions.by_label)) or "none"
                raise UnknownModel(f"model {quote(name)} has no label {quote(label)}; there are {labels}")
            return versions.by_label[label]
        if version not in versions.by_number:
            served = ", ".join(map(str, sorted(versions.by_number)))
            raise UnknownModel(f"model {quote(name)} has no version {version}; served are {served}")
        return versions.by_number[version]

    def _unknown(self, name: str) -> UnknownModel:
        return UnknownModel(f"no model {quote(name)} is served; there are {self._names()}")

    def _names(self) -> str:
        return ", ".join(sorted(self._table)) or "none"
