"""Damaged bundles, one after the other, given to a server that is live: `python -m benchmarks.fuzz_bundles`.

Each is a copy of a good bundle, damaged at random: bytes of the manifest or of a member changed, cut off, inserted
or moved, files deleted, exchanged or replaced by links, pipes and folders, values of the manifest replaced; half
of them with checksums made to fit again, so that the damage reaches onnxruntime. The server must refuse it with a
reason, or serve it: then probabilities must be probabilities, and where no member was touched, those of the good
bundle. After each, version 1 must answer as before.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from benchmarks.servers import run_server
from export.manifest import MANIFEST_FILE, read_manifest
from protos.open_inference.v2 import grpc_service_pb2 as pb
from protos.open_inference.v2 import grpc_service_pb2_grpc
from serving.client import CallError, Client

NAME = "fuzzed"
GOOD, DAMAGED = 1, 2
MOST_DAMAGES = 3
VALUES: tuple[Any, ...] = (None, True, 0, -1, 2**63, 1e308, math.nan, "", "\0", "../1/member-1.onnx", [], {}, [[]])

Damage = Callable[[Path, random.Random], None]


class FuzzSettings(BaseSettings):
    """Give damaged bundles to a server, and count what it makes of them."""

    model_config = SettingsConfigDict(
        cli_prog_name="python -m benchmarks.fuzz_bundles", use_attribute_docstrings=True, cli_kebab_case=True
    )

    bundle: Path = Path("models/mnist-small/3")
    """The good bundle."""
    count: int = Field(5000, ge=1)
    """How many damaged ones."""
    seed: int = 0
    """Of the first; each further one has the next."""


@dataclass
class Tally:
    """What became of the damaged bundles.

    Attributes:
        outcomes: How many were refused, served, or broke a promise.
        broken: The seeds of those that broke one, with what happened.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    broken: dict[int, str] = field(default_factory=dict)

    def add(self, seed: int, outcome: str) -> None:
        """Count one bundle; whatever is neither `refused` nor `served` breaks a promise."""
        if outcome in ("refused", "served"):
            self.outcomes[outcome] += 1
        else:
            self.outcomes["broken"] += 1
            self.broken[seed] = outcome

    def __str__(self) -> str:
        counts = ", ".join(f"{name} {self.outcomes[name]:,}" for name in ("refused", "served", "broken"))
        lines = [f"{self.outcomes.total():,} bundles: {counts}"]
        return "\n".join([*lines, *(f"  seed {seed}: {what}" for seed, what in self.broken.items())])


def damage_bundle(folder: Path, rng: random.Random) -> None:
    """Damage a bundle one to three times, and maybe make its checksums fit again."""
    for _ in range(rng.randint(1, MOST_DAMAGES)):
        rng.choice(DAMAGES)(folder, rng)
    if rng.random() < 0.5:
        fit_checksums(folder)
    if rng.random() < 0.1:  # last, so that nothing is written through a link
        rng.choice(REPLACEMENTS)(folder, rng)


def fit_checksums(folder: Path) -> None:
    """Write the members' own checksums into the manifest, where there still is one to write to."""
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_text())
        for member in manifest["members"]:
            member["sha256"] = hashlib.sha256((folder / member["file"]).read_bytes()).hexdigest()
        (folder / MANIFEST_FILE).write_text(json.dumps(manifest))
    except (OSError, ValueError, TypeError, KeyError):
        return


def _change_bytes(folder: Path, rng: random.Random) -> None:
    file = _any_file(folder, rng)
    content = bytearray(file.read_bytes())
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        if content:
            content[rng.randrange(len(content))] = rng.randrange(256)
    file.write_bytes(content)


def _cut_off(folder: Path, rng: random.Random) -> None:
    file = _any_file(folder, rng)
    content = file.read_bytes()
    file.write_bytes(content[: rng.randrange(len(content) + 1)])


def _insert(folder: Path, rng: random.Random) -> None:
    file = _any_file(folder, rng)
    content = file.read_bytes()
    place = rng.randrange(len(content) + 1)
    file.write_bytes(content[:place] + rng.randbytes(rng.choice((1, 4, 100))) + content[place:])


def _move_part(folder: Path, rng: random.Random) -> None:
    file = _any_file(folder, rng)
    content = file.read_bytes()
    a, b = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    file.write_bytes(content[b:] + content[a:b] + content[:a])


def _delete(folder: Path, rng: random.Random) -> None:
    _any_file(folder, rng).unlink()


def _exchange(folder: Path, rng: random.Random) -> None:
    one, other = _any_file(folder, rng), _any_file(folder, rng)
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)


def _link_elsewhere(folder: Path, rng: random.Random) -> None:
    file = _any_file(folder, rng)
    file.unlink()
    file.symlink_to(rng.choice(("/dev/null", "/dev/zero", str(folder.parent / "1" / file.name), file.name)))


def _make_a_folder(folder: Path, rng: random.Random) -> None:
    file = _any_file(folder, rng)
    file.unlink()
    file.mkdir()


def _make_a_pipe(folder: Path, rng: random.Random) -> None:
    file = _any_file(folder, rng)
    file.unlink()
    os.mkfifo(file)


def _replace_value(folder: Path, rng: random.Random) -> None:
    """Put something else into one place of the manifest, however deep."""
    file = folder / MANIFEST_FILE
    try:
        manifest = json.loads(file.read_text())
    except (OSError, ValueError):
        return
    place, key = _any_place(manifest, rng)
    if key is not None:
        place[key] = rng.choice(VALUES)
        file.write_text(json.dumps(manifest))


def _any_place(value: Any, rng: random.Random) -> tuple[Any, Any]:
    """A container somewhere inside a JSON value, and a key or index of it; None where there is none."""
    place, key = value, None
    while isinstance(place, dict | list) and place:
        key = rng.choice(list(place) if isinstance(place, dict) else range(len(place)))
        if rng.random() < 0.4 or not isinstance(place[key], dict | list) or not place[key]:
            return place, key
        place = place[key]
    return place, None


def _any_file(folder: Path, rng: random.Random) -> Path:
    """A file of the bundle, empty if it was deleted; the manifest as often as all members together."""
    members = [folder / member.name for member in sorted(folder.parent.glob("1/*.onnx"))]
    file = rng.choice([folder / MANIFEST_FILE, rng.choice(members)])
    file.touch()
    return file


DAMAGES: tuple[Damage, ...] = (
    _change_bytes,
    _change_bytes,
    _cut_off,
    _insert,
    _move_part,
    _delete,
    _exchange,
    _replace_value,
    _replace_value,
    _replace_value,
)
REPLACEMENTS: tuple[Damage, ...] = (_link_elsewhere, _make_a_folder, _make_a_pipe)


class Fuzzer:
    """Gives a server damaged bundles. Its settings: `model_control`, and no watching."""

    def __init__(self, target: str, bundle: Path, models: Path) -> None:
        """Begin with a server that serves `bundle` as version 1 of `models`/fuzzed."""
        self._client = Client(target)
        self._channel = grpc.insecure_channel(target)
        self._control = grpc_service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._folder = models / NAME
        self._bundle = bundle
        self._pixels = np.zeros((1, *read_manifest(bundle).input.shape), np.uint8)
        self._good = self._classify().members

    def close(self) -> None:
        """Give the connections back."""
        self._client.close()
        self._channel.close()

    def try_one(self, seed: int) -> str:
        """Damage a bundle, load it, and go back to version 1: `refused`, `served`, or what went wrong."""
        folder = write_good(self._bundle, self._folder.parent, DAMAGED)
        damage_bundle(folder, random.Random(seed))  # noqa: S311  no secret
        try:
            outcome = self._load_damaged(folder)
            shutil.rmtree(folder)
            self._load()
            if not np.array_equal(self._classify().members, self._good):
                return f"{outcome}, and afterwards version 1 answers otherwise"
        except (CallError, grpc.RpcError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            return " ".join(str(error).split())
        return outcome

    def _load_damaged(self, folder: Path) -> str:
        try:
            self._load()
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.FAILED_PRECONDITION:
                raise
            found = self._client.classify(self._pixels, members=True)
            return (
                "refused" if found.model_version == GOOD else f"refused, but version {found.model_version} is live"
            )
        found = self._client.classify(self._pixels, members=True)
        if found.model_version != DAMAGED:
            return f"accepted, but version {found.model_version} is live"
        one = found.classifications[0]
        assert one.members is not None  # noqa: S101  they were asked for
        if not (np.isfinite(one.probabilities).all() and np.isclose(one.probabilities.sum(), 1, atol=1e-3)):
            return f"serves {one.probabilities}"
        touched = any(
            (folder / member.file).read_bytes() != (self._bundle / member.file).read_bytes()
            for member in read_manifest(folder).members
        )
        return "served" if touched or np.array_equal(one.members, self._good) else "serves other probabilities"

    def _classify(self) -> Any:
        return self._client.classify(self._pixels, members=True).classifications[0]

    def _load(self) -> None:
        self._control.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name=NAME), timeout=60)


def write_good(bundle: Path, models: Path, version: int) -> Path:
    """Copy a bundle as a version of the model that is fuzzed."""
    folder = models / NAME / str(version)
    shutil.copytree(bundle, folder)
    manifest = json.loads((folder / MANIFEST_FILE).read_text()) | {"name": NAME, "version": version}
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest))
    return folder


def main() -> None:
    """Print the tally."""
    settings = FuzzSettings(_cli_parse_args=True)
    found = Tally()
    with tempfile.TemporaryDirectory() as models:
        write_good(settings.bundle, Path(models), GOOD)
        arguments = ("--models", models, "--watch-seconds", "0", "--model-control", "--log-format", "json")
        seed = settings.seed
        while seed < settings.seed + settings.count:
            with run_server(*arguments) as server:  # a new one where the last has crashed
                fuzzer = Fuzzer(server.target, settings.bundle, Path(models))
                while seed < settings.seed + settings.count:
                    outcome = fuzzer.try_one(seed)
                    found.add(seed, outcome)
                    seed += 1
                    if "UNAVAILABLE" in outcome:
                        break
                fuzzer.close()
    print(found)


if __name__ == "__main__":
    main()
