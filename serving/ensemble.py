"""The members of one bundle, loaded, proved and ready to run."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from export.manifest import (
    INPUT_NAME,
    OUTPUT_NAME,
    Manifest,
    ManifestError,
    Member,
    read_manifest,
)
from serving.errors import BundleRefused
from serving.metrics import Metrics
from serving.providers import open_session
from serving.settings import Provider
from serving.verdict import Counts, Floats, Verdict, judge

Pixels = npt.NDArray[np.uint8]


class Ensemble:
    """The members of one bundle; any number of threads may run them at once."""

    def __init__(self, folder: Path, provider: Provider, metrics: Metrics) -> None:
        """Load and prove the bundle in `folder`.

        Raises:
            BundleRefused: A proof fails: schema, checksums, signature or self-check.
            ProviderInactive: The provider does not run the members.
        """
        self.manifest = _read_manifest(folder)
        self.provider = provider
        self._sessions = [self._open(folder, member) for member in self.manifest.members]
        self.metrics = metrics.of_model(self.manifest, provider)
        self._replay_self_check()

    def run_member(self, member: int, pixels: Pixels) -> Floats:
        """One member's probabilities.

        Args:
            member: Which, counted from 0.
            pixels: uint8 (images, channels, height, width), as the manifest's input states.

        Returns:
            float32 (images, classes).
        """
        started = time.perf_counter()
        probabilities = _infer(self._sessions[member], pixels)
        self.metrics.members[member].observe(time.perf_counter() - started)
        return probabilities

    def judge(self, members: Floats, members_run: Counts) -> Verdict:
        """Average what the members say, at the bundle's temperature; see `serving.verdict.judge`."""
        return judge(members, members_run, self.manifest.averaging.temperature)

    def observe_batch(self, images: int) -> None:
        """Count a batch of so many images."""
        self.metrics.batch_images.observe(images)

    def _open(self, folder: Path, member: Member) -> onnxruntime.InferenceSession:
        graph = _read_member(folder, member, self.manifest)
        session = open_session(graph, f"{_name(self.manifest)}: {member.file}", self.provider)
        _check_signature(member, session, self.manifest)
        return session

    def _replay_self_check(self) -> None:
        check = self.manifest.self_check
        pixels = np.frombuffer(check.pixels, np.uint8).reshape(check.images, *self.manifest.input.shape)
        for number, member in enumerate(self.manifest.members):
            failed = f"{_name(self.manifest)}: self-check failed: {member.file}"
            try:
                found = _infer(self._sessions[number], pixels)
            except Exception as error:  # onnxruntime's own exceptions share no base class but this
                raise BundleRefused(f"{failed} does not run: {error}") from error
            difference = np.abs(found - np.array(check.member_probabilities[number])).max()
            if not difference <= check.tolerance:  # also catches NaN
                raise BundleRefused(
                    f"{failed} is off by {difference:.2e}, at most {check.tolerance:.0e} is accepted"
                )


def _infer(session: onnxruntime.InferenceSession, pixels: Pixels) -> Floats:
    (probabilities,) = session.run([OUTPUT_NAME], {INPUT_NAME: pixels})
    return np.asarray(probabilities, np.float32)


def _read_manifest(folder: Path) -> Manifest:
    try:
        return read_manifest(folder)
    except ManifestError as error:
        raise BundleRefused(str(error)) from error


def _read_member(folder: Path, member: Member, manifest: Manifest) -> bytes:
    """The very bytes that are checked are the ones that are loaded."""
    path = folder / member.file
    if not path.is_file() or path.is_symlink():
        raise BundleRefused(f"{_name(manifest)}: {member.file} is not a regular file in the bundle")
    try:
        graph = path.read_bytes()
    except OSError as error:
        raise BundleRefused(f"{_name(manifest)}: {member.file} cannot be read: {error.strerror}") from error
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
