"""The versions of one model: which should be served, which are loaded, and what is done to bring both together."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import structlog

from serving.errors import BundleRefused, BundleUnread, ShuttingDown, StartupError
from serving.labels import LABELS_FILE, Labels, read_labels
from serving.models import Loader, Model
from serving.refusals import LABELS, Refusal, Refusals
from serving.repository import Bundle, Contents, File
from serving.routing import Versions
from serving.settings import ServerSettings

log = structlog.get_logger()


@dataclass(frozen=True)
class Loaded:
    """A model, and the bundle that it was made of."""

    model: Model
    bundle: Bundle


class Lineage:
    """All versions of one model. Whatever is refused, what is loaded stays loaded until there is better."""

    def __init__(self, name: str, settings: ServerSettings, loader: Loader, refusals: Refusals) -> None:
        self.name = name
        self.loaded: Mapping[int, Loaded] = {}
        self._labels: Labels = {}
        self._unread: set[int] = set()
        """Versions that could not be read at the last look, and are to be tried at this one."""
        self._settings = settings
        self._loader = loader
        self._refusals = refusals

    @property
    def versions(self) -> Versions:
        """What is loaded, for calls to find."""
        by_number = {version: loaded.model for version, loaded in self.loaded.items()}
        return Versions(by_number, {label: by_number[version] for label, version in self._labels.items()})

    def unload(self) -> None:
        """Let go of all versions."""
        self.loaded, self._labels = {}, {}

    def follow(self, contents: Contents) -> None:
        """Load what the folder now has and should be served, and let go of what should not.

        A bundle that is refused is not tried again before its files change, unless they could not be read. One
        that somebody is still writing is left for the next time. Where nothing can be served in its place, what is
        loaded is kept.

        Raises:
            ShuttingDown: The server stops, and loads nothing more.
        """
        bundles = contents.bundles[self.name]
        self._refusals.lift_all(self.name, but={LABELS, *bundles, *self._pinned()} - self._unchanged(bundles))
        standing = self._refusals.standing(self.name)
        self._unread = {refusal.version for refusal in standing if isinstance(refusal.error, BundleUnread)}
        asked, unreadable = self._read_labels(contents.labels.get(self.name))
        wanted = self._load_wanted(bundles, asked)
        self._refuse_missing(bundles)
        if not wanted:
            return
        self._labels, unserved = self._hold_labels(asked, wanted, bundles)
        self._judge_labels(unreadable or unserved)
        kept = {*wanted, *self._labels.values()}
        self.loaded = {version: one for version, one in self.loaded.items() if version in kept}

    def _load_wanted(self, bundles: Mapping[int, Bundle], labels: Labels) -> set[int]:
        """Load versions until those are loaded that should be; a refusal may make another version wanted."""
        while True:
            usable = [version for version, bundle in bundles.items() if self._is_usable(bundle)]
            wanted = self._choose(usable, labels)
            missing = [version for version in wanted if self._must_load(bundles[version])]
            if not missing:
                return wanted
            self._try_to_load(bundles[max(missing)])

    def _choose(self, usable: Iterable[int], labels: Labels) -> set[int]:
        labelled = set(usable) & set(labels.values())
        if pinned := self._pinned():
            return labelled | (set(usable) & pinned)
        return labelled | set(sorted(usable)[-self._settings.latest_versions :])

    def _unchanged(self, bundles: Mapping[int, Bundle]) -> set[int]:
        """Versions that are loaded as the folder has them: whatever was refused meanwhile is gone again."""
        return {version for version in self.loaded.keys() & bundles.keys() if not self._differs(bundles[version])}

    def _differs(self, bundle: Bundle) -> bool:
        return self.loaded[bundle.version].bundle.files != bundle.files

    def _is_usable(self, bundle: Bundle) -> bool:
        return bundle.version in self.loaded or (bundle.is_settled and not self._is_refused(bundle))

    def _must_load(self, bundle: Bundle) -> bool:
        if bundle.version not in self.loaded:
            return True
        return self._differs(bundle) and bundle.is_settled and not self._is_refused(bundle)

    def _is_refused(self, bundle: Bundle) -> bool:
        stands = self._refusals.stands(bundle.name, bundle.version, bundle.files)
        return stands and bundle.version not in self._unread

    def _try_to_load(self, bundle: Bundle) -> None:
        self._unread.discard(bundle.version)
        beside = next((one.model for one in self.loaded.values()), None)
        try:
            model = self._loader.load(bundle, beside)
        except StartupError as error:
            self._refuse(bundle.version, bundle.files, error)
        except ShuttingDown:
            raise
        except Exception as error:  # whatever a bundle does to the libraries, the server goes on
            log.exception("bundle failed unexpectedly", name=bundle.name, version=bundle.version)
            reason = BundleRefused(f"{bundle.name}/{bundle.version} fails with {type(error).__name__}: {error}")
            self._refuse(bundle.version, bundle.files, reason)
        else:
            self._refusals.lift(bundle.name, bundle.version)
            self.loaded = {**self.loaded, bundle.version: Loaded(model, bundle)}

    def _read_labels(self, file: File | None) -> tuple[Labels, BundleRefused | None]:
        """The labels that the folder asks for; or those that hold, and why the file cannot be used."""
        try:
            return (read_labels(self._settings.models / self.name) if file else {}), None
        except BundleRefused as error:
            return self._labels, error

    def _hold_labels(
        self, asked: Labels, wanted: set[int], bundles: Mapping[int, Bundle]
    ) -> tuple[Labels, BundleRefused | None]:
        """The labels asked for, each at its former version where the new one is not served; and why it is not."""
        held: Labels = {}
        problems = []
        for label, version in asked.items():
            if version in wanted:
                held[label] = version
                continue
            if label in self._labels:
                held[label] = self._labels[label]
            if version not in bundles:
                problems.append(f"{label!r} names version {version}, which is not in the models folder")
            elif bundles[version].is_settled:
                problems.append(f"{label!r} names version {version}, which was refused")
        error = BundleRefused(f"{self.name}/{LABELS_FILE}: {'; '.join(problems)}") if problems else None
        return held, error

    def _judge_labels(self, error: BundleRefused | None) -> None:
        if error is None:
            self._refusals.lift(self.name, LABELS)
        else:
            self._refuse(LABELS, str(error), error)

    def _refuse_missing(self, bundles: Mapping[int, Bundle]) -> None:
        """Pinned versions that are not there would otherwise go unnoticed."""
        for version in self._pinned():
            if version in bundles:
                continue
            error = BundleRefused(f"{self.name}/{version} is pinned, but not in the models folder")
            self._refuse(version, None, error)

    def _pinned(self) -> set[int]:
        return set(self._settings.pinned_versions.get(self.name, ()))

    def _refuse(self, version: int, of: object, error: StartupError) -> None:
        standing = [one for one in self._refusals.standing(self.name) if (one.version, one.of) == (version, of)]
        if not any(type(one.error) is type(error) for one in standing):
            reason = " ".join(str(error).replace(f"{self._settings.models}{os.sep}", "").split())
            # Without its traceback, whose frames hold whatever they were called by: a call, say, and its stream.
            remembered = type(error)(str(error))
            self._refusals.add(Refusal(self.name, version, of, remembered, reason))
