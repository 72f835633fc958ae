"""What is served follows the models folder, the settings and what operators ask for.

A new version is loaded beside those that are live, and proved; then calls find it, in one step; then those that it
replaces are closed once idle. One change is made at a time; calls wait for none of it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from operator import itemgetter

import structlog

from serving.admission import Admission
from serving.errors import BundleRefused, LoadRefused, SettingsError, TooManyChanges, UnknownModel
from serving.inference import InferenceThreads
from serving.lineage import Lineage
from serving.metrics import Metrics
from serving.models import Loader, Model
from serving.refusals import Refusals
from serving.repository import Bundle, Contents, scan
from serving.retirement import Retirement
from serving.routing import Models
from serving.settings import ServerSettings
from serving.shadow import Shadow

MOST_REQUESTS = 2
"""Loads and unloads by call that are under way or wait for their turn; each holds a thread."""
RETRY_SECONDS = 1.0

log = structlog.get_logger()


class Rollout:
    """Loads, swaps and unloads models."""

    def __init__(
        self, settings: ServerSettings, threads: InferenceThreads, metrics: Metrics, admission: Admission
    ) -> None:
        self.models = Models(settings.default_model, settings.canary_share)
        self.refusals = Refusals(metrics)
        self.contents = Contents()
        """Of the models folder, when it was last looked at."""
        self._settings = settings
        self._threads = threads
        self._metrics = metrics.rollout
        self._retirement = Retirement(admission, metrics)
        self._loader = Loader(settings, threads, metrics)
        self._lineages: dict[str, Lineage] = {}
        self._unloaded: set[str] = set()
        self._kept: set[str] = set()
        self._lock = threading.Lock()
        self._requests = threading.Semaphore(MOST_REQUESTS)
        self._report: Callable[[Collection[str]], None] = lambda _: None

    def start(self) -> None:
        """Load what is in the models folder.

        Raises:
            BundleRefused: There is no bundle; or one fails a proof, with `strict_start`; or all do.
            ProviderInactive: The same, for want of the provider.
            SettingsError: The default model, or a pinned one, is not there.
        """
        settings = self._settings
        with self._lock:
            self._follow(scan(settings.models))
            refused = self.refusals.standing()
            if refused and (settings.strict_start or not list(self.models)):
                raise refused[0].error
            if not self.contents.bundles:
                raise BundleRefused(
                    f"models folder {settings.models} holds no bundle <name>/<version>/manifest.json"
                )
            self._check_named("default_model", [settings.default_model] if settings.default_model else [])
            self._check_named("pinned_versions", settings.pinned_versions)
            self.models.settle_default()

    def report_to(self, report: Callable[[Collection[str]], None]) -> None:
        """Have somebody told, now and after every change, of which models versions are served."""
        with self._lock:
            self._report = report
            report(self._served())

    def stop(self) -> None:
        """Load nothing more; what is loading now is finished."""
        self._loader.stop()

    def refresh(self) -> None:
        """Look at the models folder, and follow it.

        Raises:
            BundleRefused: The folder cannot be read; nothing is changed.
            ShuttingDown: `stop` was called.
        """
        with self._lock:
            self._follow(scan(self._settings.models, self.contents))

    def load(self, name: str) -> None:
        """Look at the models folder now, and try all of a model's bundles again, those of an unloaded one too.

        Raises:
            UnknownModel: The folder has no such model.
            LoadRefused: A bundle was refused, or the folder cannot be read; what was live still is.
            ShuttingDown: `stop` was called.
            TooManyChanges: Other changes wait already.
        """
        with self._change_by_call():
            try:
                contents = scan(self._settings.models, self.contents, finished=name)
            except BundleRefused as error:
                raise LoadRefused("the models folder cannot be read; nothing was changed") from error
            if name not in contents.bundles:
                raise UnknownModel(f"the models folder has no model {name!r}")
            self._unloaded.discard(name)
            self.refusals.lift_all(name)
            self._follow(contents)
            if refused := self.refusals.standing(name):
                raise LoadRefused("; ".join(one.reason for one in refused))

    def unload(self, name: str) -> None:
        """Serve no version of a model any more, until it is loaded by call.

        Raises:
            UnknownModel: It is not served.
            TooManyChanges: Other changes wait already.
        """
        with self._change_by_call():
            if name not in self._served():
                raise UnknownModel(f"no model {name!r} is served")
            self._unloaded.add(name)
            self._follow(self.contents)

    def bundles(self) -> list[Bundle]:
        """Every bundle in the folder, as it was last looked at, or in use, by name and version."""
        found = {
            (bundle.name, bundle.version): bundle
            for lineage in list(self._lineages.values())
            for bundle in (loaded.bundle for loaded in lineage.loaded.values())
        }
        for versions in self.contents.bundles.values():
            found |= {(bundle.name, bundle.version): bundle for bundle in versions.values()}
        return [bundle for _, bundle in sorted(found.items(), key=itemgetter(0))]

    def why_not(self, bundle: Bundle) -> str:
        """Why a bundle is not served; empty if it is."""
        lineage = self._lineages.get(bundle.name)
        if lineage is not None and bundle.version in lineage.loaded:
            return ""
        for refusal in self.refusals.standing(bundle.name):
            if refusal.version == bundle.version:
                return refusal.reason
        return "unloaded by call" if bundle.name in self._unloaded else "neither latest, nor pinned, nor labelled"

    def close(self) -> None:
        """Answer what waits and stop; a load that is still under way is not waited for."""
        self._retirement.close()
        for model in self.models:
            model.batcher.close()

    def _check_named(self, setting: str, names: Iterable[str]) -> None:
        """Refuse to start without a model that a setting names."""
        served = self._served()
        for name in names:
            if name not in served:
                raise SettingsError(f"{setting} {name!r} is not served; there are {', '.join(sorted(served))}")

    @contextmanager
    def _change_by_call(self) -> Iterator[None]:
        if not self._requests.acquire(blocking=False):
            raise TooManyChanges("other models are being loaded or unloaded; try again later", RETRY_SECONDS)
        try:
            with self._lock:
                yield
        finally:
            self._requests.release()

    def _follow(self, contents: Contents) -> None:
        """Bring all models in line with the folder, each as soon as it is ready."""
        self.contents = contents
        for name in sorted({*contents.bundles, *self._lineages}):
            before = self._loaded(name)
            self._follow_one(name, contents)
            self._publish(name, before)

    def _follow_one(self, name: str, contents: Contents) -> None:
        lineage = self._lineages.setdefault(name, Lineage(name, self._settings, self._loader, self.refusals))
        if name not in contents.bundles:
            self.refusals.lift_all(name)
        if name in self._unloaded:
            lineage.unload()
        elif name in contents.bundles:
            self._kept.discard(name)
            lineage.follow(contents)
        elif self._settings.unload_removed or not lineage.loaded:
            lineage.unload()
        elif name not in self._kept:
            self._kept.add(name)
            self._metrics.kept.labels(name).inc()
            log.warning("last version removed from the folder; served on until unloaded", name=name)

    def _publish(self, name: str, before: set[Model]) -> None:
        """Let calls find what is loaded, and close what was."""
        lineage = self._lineages[name]
        table = {one: other.versions for one, other in self._lineages.items() if other.loaded}
        if not lineage.loaded and name not in self.contents.bundles:
            del self._lineages[name]
        self._set_shadows(lineage)
        self.models.publish(table)
        self._report(table.keys())
        for model in before - self._loaded(name):
            self._retirement.retire(model)

    def _set_shadows(self, lineage: Lineage) -> None:
        """Have the default version's calls compared with the candidate's answers, and no others."""
        if not self._settings.shadow_share or not lineage.loaded:
            return
        versions = lineage.versions
        for model in versions.by_number.values():
            candidate = versions.candidate if model is versions.default else None
            if candidate is None:
                model.shadow = None
            elif model.shadow is None or model.shadow.candidate is not candidate:
                model.shadow = Shadow(model, candidate, self._settings.shadow_share, self._threads, self._metrics)

    def _loaded(self, name: str) -> set[Model]:
        lineage = self._lineages.get(name)
        return {one.model for one in lineage.loaded.values()} if lineage else set()

    def _served(self) -> set[str]:
        return {name for name, lineage in self._lineages.items() if lineage.loaded}
