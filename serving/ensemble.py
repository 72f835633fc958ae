"""The members of one bundle, loaded, proved and ready to run."""

from __future__ import annotations

import errno
import hashlib
import statistics
import time
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnxruntime
import structlog

from export.manifest import (
    INPUT_NAME,
    OUTPUT_NAME,
    Manifest,
    ManifestError,
    Member,
    read_manifest,
)
from serving.errors import BundleRefused, BundleUnread, ProviderInactive, StartupError
from serving.providers import EXECUTIONS, installed_providers, open_session
from serving.settings import Provider
from serving.verdict import Floats

Pixels = npt.NDArray[np.uint8]
TIMED_IMAGES = 8
TIMED_RUNS = 5
BFLOAT16_TOLERANCE = 0.1
"""How much of an image's probability rounding to eight significant bits may move to other classes, on average over
the self-check's noise. 0.06 was seen; of members of one bundle, no two are closer to each other than 0.17."""

log = structlog.get_logger()


def load_ensemble(folder: Path, provider: Provider | Literal["auto"]) -> Ensemble:
    """Load and prove a bundle on a provider, or with `auto` on the fastest installed one that passes the proofs.

    Raises:
        BundleRefused: A proof fails; with `auto`, on every provider.
        ProviderInactive: The provider does not run the members.
    """
    if provider != "auto":
        return Ensemble(folder, provider)
    ensembles: list[Ensemble] = []
    refusals: list[StartupError] = []
    for candidate in installed_providers():
        if EXECUTIONS[candidate].rounds:
            continue
        try:
            ensembles.append(Ensemble(folder, candidate))
        except (BundleRefused, ProviderInactive) as error:
            log.warning("provider passed over", provider=candidate, reason=str(error))
            refusals.append(error)
    if not ensembles:
        raise refusals[0]
    if len(ensembles) == 1:
        return ensembles[0]
    seconds = {ensemble.provider: ensemble.time_batch() for ensemble in ensembles}
    fastest = min(ensembles, key=lambda ensemble: seconds[ensemble.provider])
    log.info(
        "provider chosen",
        provider=fastest.provider,
        batch_ms={provider: round(one * 1e3, 2) for provider, one in seconds.items()},
    )
    return fastest


class Ensemble:
    """The members of one bundle; any number of threads may run them at once."""

    def __init__(self, folder: Path, provider: Provider) -> None:
        """Load and prove the bundle in `folder`.

        Raises:
            BundleRefused: A proof fails: schema, checksums, signature or self-check.
            ProviderInactive: The provider does not run the members.
        """
        self.manifest = _read_manifest(folder)
        self.provider = provider
        self._execution = EXECUTIONS[provider]
        graphs = [_read_member(folder, member, self.manifest) for member in self.manifest.members]
        self._sessions = [self._open(*pair) for pair in zip(self.manifest.members, graphs, strict=True)]
        self._replay_self_check()
        self._plan_sizes()

    def run_member(self, member: int, pixels: Pixels) -> Floats:
        """One member's probabilities.

        Args:
            member: Which, counted from 0.
            pixels: uint8 (images, channels, height, width), as the manifest's input states.

        Returns:
            float32 (images, classes).
        """
        return self._ask(member, pixels)

    def time_batch(self) -> float:
        """Median seconds that all members take for a small batch, one after the other."""
        pixels = np.zeros((TIMED_IMAGES, *self.manifest.input.shape), np.uint8)
        seconds = []
        for _ in range(TIMED_RUNS):
            started = time.perf_counter()
            for member in range(len(self._sessions)):
                self.run_member(member, pixels)
            seconds.append(time.perf_counter() - started)
        return statistics.median(seconds)

    def _open(self, member: Member, graph: bytes) -> onnxruntime.InferenceSession:
        session = open_session(graph, f"{_name(self.manifest)}: {member.file}", self.provider)
        _check_signature(member, session, self.manifest)
        return session

    def _ask(self, member: int, pixels: Pixels) -> Floats:
        session = self._sessions[member]
        if not self._execution.batch_sizes:
            return _infer(session, pixels)
        return _infer_padded(session, pixels, self._execution.padded(len(pixels)))

    def _plan_sizes(self) -> None:
        """Run each size of batch that there is once: no caller is to wait for its plan."""
        for size in self._execution.batch_sizes:
            pixels = np.zeros((size, *self.manifest.input.shape), np.uint8)
            for member in range(len(self._sessions)):
                self._ask(member, pixels)

    def _replay_self_check(self) -> None:
        tolerance = self.manifest.self_check.tolerance
        differences = [self._self_check(member) for member in range(len(self._sessions))]
        for member, difference in zip(self.manifest.members, differences, strict=True):
            if self._execution.rounds:
                self._require_close(member, "on average", _mean_moved(difference), BFLOAT16_TOLERANCE)
            else:
                self._require_close(member, "at most", float(difference.max()), tolerance)
        largest = max(float(difference.max()) for difference in differences)
        if self._execution.rounds and largest <= tolerance:
            raise ProviderInactive(
                f"provider {self.provider!r} was asked for, but {_name(self.manifest)} answers as without it "
                f"to within {largest:.0e}: the processor has no bfloat16, or the bundle is int8"
            )

    def _require_close(self, member: Member, how: str, difference: float, accepted: float) -> None:
        if not difference <= accepted:  # also catches NaN
            raise BundleRefused(
                f"{_name(self.manifest)}: self-check failed: {member.file} is off by {difference:.2e} {how}, "
                f"{accepted:.0e} is accepted"
            )

    def _self_check(self, member: int) -> Floats:
        """By how much each probability of a member, counted from 0, differs from the manifest's."""
        check, file = self.manifest.self_check, self.manifest.members[member].file
        pixels = np.frombuffer(check.pixels, np.uint8).reshape(check.images, *self.manifest.input.shape)
        try:
            found = self._ask(member, pixels)
        except Exception as error:  # onnxruntime's own exceptions share no base class but this
            raise BundleRefused(
                f"{_name(self.manifest)}: self-check failed: {file} does not run: {error}"
            ) from error
        return np.abs(found - np.array(check.member_probabilities[member], np.float32))


def _mean_moved(difference: Floats) -> float:
    """How much of an image's probability lies in other classes, on average.

    Args:
        difference: float32 (images, classes), by how much each probability differs, at least 0.
    """
    return float(difference.sum(1).mean()) / 2


def _infer(session: onnxruntime.InferenceSession, pixels: Pixels) -> Floats:
    (probabilities,) = session.run([OUTPUT_NAME], {INPUT_NAME: pixels})
    return np.asarray(probabilities, np.float32)


def _infer_padded(session: onnxruntime.InferenceSession, pixels: Pixels, size: int) -> Floats:
    """As above, in a batch of `size`, with input and output bound to memory that the provider copies."""
    padded = np.zeros((size, *pixels.shape[1:]), np.uint8)
    padded[: len(pixels)] = pixels
    binding = session.io_binding()
    binding.bind_cpu_input(INPUT_NAME, padded)
    binding.bind_output(OUTPUT_NAME)
    session.run_with_iobinding(binding)
    (probabilities,) = binding.copy_outputs_to_cpu()
    return np.asarray(probabilities, np.float32)[: len(pixels)]


def _read_manifest(folder: Path) -> Manifest:
    try:
        return read_manifest(folder)
    except ManifestError as error:
        cause = error.__cause__
        is_unread = isinstance(cause, OSError) and cause.errno != errno.EINVAL  # which a link or a pipe is
        raise (BundleUnread if is_unread else BundleRefused)(str(error)) from error


def _read_member(folder: Path, member: Member, manifest: Manifest) -> bytes:
    """The very bytes that are checked are the ones that are loaded."""
    path = folder / member.file
    try:
        if not path.is_file() or path.is_symlink():
            raise BundleRefused(f"{_name(manifest)}: {member.file} is not a regular file in the bundle")
        graph = path.read_bytes()
    except OSError as error:
        raise BundleUnread(f"{_name(manifest)}: {member.file} cannot be read: {error.strerror}") from error
    if (found := hashlib.sha256(graph).hexdigest()) != member.sha256:
        raise BundleRefused(
            f"{_name(manifest)}: {member.file} has sha256 {found[:12]}..., the manifest says "
            f"{member.sha256[:12]}...; the file is damaged or was exchanged"
        )
    return graph


def _check_signature(member: Member, session: onnxruntime.InferenceSession, manifest: Manifest) -> None:
    found = [_signature(value) for value in (*session.get_inputs(), *session.get_outputs())]
    expected = [
        (INPUT_NAME, "tensor(uint8)", ("batch", *manifest.input.shape)),
        (OUTPUT_NAME, "tensor(float)", ("batch", len(manifest.class_labels))),
    ]
    if found != expected:
        raise BundleRefused(f"{_name(manifest)}: {member.file} takes and gives {found}, expected {expected}")


def _signature(value: onnxruntime.NodeArg) -> tuple[str, str, tuple[int | str, ...]]:
    """Name, type and shape; a dynamic axis counts as the batch, whatever it is called."""
    return value.name, value.type, tuple("batch" if isinstance(axis, str) else axis for axis in value.shape)


def _name(manifest: Manifest) -> str:
    return f"{manifest.name}/{manifest.version}"
