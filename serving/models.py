"""The models that are served, by name and version."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from export.manifest import MANIFEST_FILE, Manifest
from serving.batcher import Batcher
from serving.ensemble import Ensemble, Pixels, load_ensemble
from serving.errors import BundleRefused, SettingsError, UnknownModel
from serving.inference import InferenceThreads
from serving.metrics import Metrics
from serving.settings import ServerSettings
from serving.verdict import Counts, Floats, Verdict, judge

VERSION = re.compile(r"[1-9]\d*")


class Model:
    """One version of one model: its ensemble, the queue in front of it, and what is counted about both."""

    def __init__(
        self, ensemble: Ensemble, threads: InferenceThreads, metrics: Metrics, settings: ServerSettings
    ) -> None:
        self.manifest: Manifest = ensemble.manifest
        self.provider = ensemble.provider
        self.metrics = metrics.of_model(ensemble.manifest, ensemble.provider)
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


class Models:
    """All models that are served."""

    def __init__(self, models: Iterable[Model], default_model: str | None) -> None:
        """Index models by name and version.

        Raises:
            SettingsError: The default model is not among them.
        """
        self._versions: dict[str, dict[int, Model]] = {}
        for model in models:
            self._versions.setdefault(model.manifest.name, {})[model.manifest.version] = model
        if default_model is not None and default_model not in self._versions:
            raise SettingsError(f"default_model {default_model!r} is not served; there are {self._names()}")
        self._default = default_model or (next(iter(self._versions)) if len(self._versions) == 1 else None)

    def __iter__(self) -> Iterator[Model]:
        """By name, then by version."""
        for _, versions in sorted(self._versions.items()):
            yield from (model for _, model in sorted(versions.items()))

    def find(self, name: str, version: int) -> Model:
        """The model that a request means.

        Args:
            name: Empty for the default model.
            version: 0 for the latest.

        Raises:
            UnknownModel: It is not served.
        """
        chosen = name or self._default
        if chosen is None:
            raise UnknownModel(f"the request names no model and the server has several: {self._names()}")
        if chosen not in self._versions:
            raise UnknownModel(f"no model {chosen!r} is served; there are {self._names()}")
        versions = self._versions[chosen]
        if version and version not in versions:
            served = ", ".join(map(str, sorted(versions)))
            raise UnknownModel(f"model {chosen!r} has no version {version}; served are {served}")
        return versions[version or max(versions)]

    def is_latest(self, model: Model) -> bool:
        """Whether a request that names no version gets this one."""
        return model is self.find(model.manifest.name, 0)

    def close(self) -> None:
        """Answer what waits and stop."""
        for model in self:
            model.batcher.close()

    def _names(self) -> str:
        return ", ".join(sorted(self._versions))


def load_models(settings: ServerSettings, threads: InferenceThreads, metrics: Metrics) -> Models:
    """Load and prove every bundle in the models folder.

    Raises:
        BundleRefused: There is no bundle, or one fails a proof.
        ProviderInactive: The provider does not run a member.
        SettingsError: The default model is not there.
    """
    folders = find_bundles(settings.models)
    ensembles = [load_ensemble(folder, settings.provider) for folder in folders]
    models = [Model(ensemble, threads, metrics, settings) for ensemble in ensembles]
    return Models(models, settings.default_model)


def find_bundles(models: Path) -> list[Path]:
    """The folders `<name>/<version>` below the models folder, in order; hidden ones are passed over.

    Raises:
        BundleRefused: There is none.
    """
    if not models.is_dir():
        raise BundleRefused(f"models folder {models} is not there")
    try:
        names = [folder for folder in models.iterdir() if folder.is_dir() and not folder.name.startswith(".")]
        versions = [folder for name in names for folder in name.iterdir() if VERSION.fullmatch(folder.name)]
    except OSError as error:
        raise BundleRefused(f"{error.filename} cannot be read: {error.strerror}") from error
    if not versions:
        raise BundleRefused(f"models folder {models} holds no bundle <name>/<version>/{MANIFEST_FILE}")
    return sorted(versions, key=lambda folder: (folder.parent.name, int(folder.name)))
