"""Versions of a model swapped under full load: `python -m benchmarks.swaps`.

Each new version is put into the watched folder beside the last, which is removed once the new one is live. The
versions differ in temperature alone, so that every answer shows which version gave it. A call is misrouted if its
reply names a version that was not live at any moment of the call, or if the probabilities are not that version's.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np
import numpy.typing as npt
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from benchmarks.load import classify_request, pixels_of
from benchmarks.servers import run_server
from export.manifest import MANIFEST_FILE, read_manifest
from protos.consort.v1 import classifier_pb2 as pb
from protos.consort.v1 import classifier_pb2_grpc
from serving.client import Client
from serving.ensemble import Ensemble
from serving.verdict import judge

WATCH_SECONDS = 0.1
DEADLINE_SECONDS = 60.0
NEVER = float("inf")

Floats = npt.NDArray[np.float32]


class SwapSettings(BaseSettings):
    """Swap versions of a model under load, and tell what became of the calls."""

    model_config = SettingsConfigDict(
        cli_prog_name="python -m benchmarks.swaps", use_attribute_docstrings=True, cli_kebab_case=True
    )

    bundle: Path = Path("models/mnist-small/3")
    """The bundle whose copies are served."""
    count: int = Field(200, ge=1)
    """How many swaps."""
    callers: int = Field(16, ge=1)
    """How many wait for an answer at the same time."""


@dataclass(frozen=True)
class Reply:
    """What came of one call; times are in seconds on one clock.

    Attributes:
        started: When it was sent.
        ended: When it was answered.
        code: gRPC status.
        version: Which answered.
        probabilities: float32 (classes,), of the one image.
    """

    started: float
    ended: float
    code: str
    version: int = 0
    probabilities: Floats = field(default_factory=lambda: np.zeros(0, np.float32))


@dataclass(frozen=True)
class Life:
    """When a version may have been live, and what it says.

    Attributes:
        begins: When its bundle came into the folder, in seconds.
        ends: When its successor was seen live.
        probabilities: float32 (classes,), of the image that is sent.
    """

    begins: float
    ends: float
    probabilities: Floats


@dataclass(frozen=True)
class Tally:
    """What became of all calls."""

    calls: int
    failed: Counter[str]
    misrouted: int
    versions: int

    def __str__(self) -> str:
        failed = ", ".join(f"{code} {count:,}" for code, count in sorted(self.failed.items())) or "0"
        return (
            f"{self.calls:,} calls answered by {self.versions:,} versions; failed: {failed}; "
            f"misrouted: {self.misrouted:,}"
        )


def tally(replies: Sequence[Reply], lives: dict[int, Life]) -> Tally:
    """Hold every reply against the lives of the versions."""
    answered = [reply for reply in replies if reply.code == "OK"]
    return Tally(
        calls=len(replies),
        failed=Counter(reply.code for reply in replies if reply.code != "OK"),
        misrouted=sum(not is_right(reply, lives) for reply in answered),
        versions=len({reply.version for reply in answered}),
    )


def is_right(reply: Reply, lives: dict[int, Life]) -> bool:
    """Whether the version that a reply names was live during the call, and says what the reply says."""
    life = lives.get(reply.version)
    if life is None or reply.ended < life.begins or reply.started > life.ends:
        return False
    return bool(np.allclose(reply.probabilities, life.probabilities, atol=1e-6))


def write_version(bundle: Path, models: Path, version: int) -> Path:
    """Copy a bundle as another version with a temperature of its own; it appears in one step."""
    manifest = json.loads((bundle / MANIFEST_FILE).read_text())
    manifest |= {"name": "swapped", "version": version, "averaging": {"temperature": 1 + version / 100}}
    unfinished = models / f".unfinished-{version}"
    shutil.copytree(bundle, unfinished)
    (unfinished / MANIFEST_FILE).write_text(json.dumps(manifest))
    (models / "swapped").mkdir(exist_ok=True)
    return unfinished.rename(models / "swapped" / str(version))


def swap_under_load(
    target: str, bundle: Path, models: Path, count: int, callers: int, swapped: Callable[[], None] = lambda: None
) -> Tally:
    """Bring in `count` versions after version 1, which is live, one after the other under load.

    Args:
        target: Host and port of the server.
        bundle: The bundle whose copies are served.
        models: The folder that the server watches.
        count: How many swaps.
        callers: How many wait for an answer at the same time.
        swapped: Called after each swap.

    Raises:
        TimeoutError: A version did not become live.
    """
    pixels = pixels_of(1, read_manifest(bundle).input.shape)
    lives = {1: Life(-NEVER, NEVER, _expected(models / "swapped/1", pixels))}
    with Client(target) as client, _load(target, classify_request(pixels, "swapped"), callers) as replies:
        for version in range(2, count + 2):
            begins = time.perf_counter()
            folder = write_version(bundle, models, version)
            _wait_until_live(client, version)
            last = lives[version - 1]
            lives[version - 1] = Life(last.begins, time.perf_counter(), last.probabilities)
            lives[version] = Life(begins, NEVER, _expected(folder, pixels))
            shutil.rmtree(models / "swapped" / str(version - 1))
            swapped()
    return tally(replies, lives)


def _expected(folder: Path, pixels: npt.NDArray[np.uint8]) -> Floats:
    ensemble = Ensemble(folder, "cpu")
    members = np.stack([ensemble.run_member(member, pixels) for member in range(len(ensemble.manifest.members))])
    verdict = judge(members, np.full(len(pixels), len(members)), ensemble.manifest.averaging.temperature)
    return np.asarray(verdict.probabilities[0], np.float32)


def _wait_until_live(client: Client, version: int) -> None:
    deadline = time.perf_counter() + DEADLINE_SECONDS
    while [one.version for one in client.list_models()] != [version]:
        if time.perf_counter() > deadline:
            raise TimeoutError(f"version {version} is not live after {DEADLINE_SECONDS:g} s")
        time.sleep(0.01)


@contextmanager
def _load(target: str, request: bytes, callers: int) -> Iterator[list[Reply]]:
    """Callers that call again as soon as they are answered; all replies are there once the block has ended."""
    replies: list[Reply] = []
    over = threading.Event()

    def call_repeatedly() -> None:
        with grpc.insecure_channel(target, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            stub = classifier_pb2_grpc.ClassifierStub(channel)
            while not over.is_set():
                replies.append(_call(stub, pb.ClassifyRequest.FromString(request)))

    threads = [threading.Thread(target=call_repeatedly) for _ in range(callers)]
    for thread in threads:
        thread.start()
    try:
        yield replies
    finally:
        over.set()
        for thread in threads:
            thread.join()


def _call(stub: classifier_pb2_grpc.ClassifierStub, request: pb.ClassifyRequest) -> Reply:
    started = time.perf_counter()
    try:
        response = stub.Classify(request, timeout=DEADLINE_SECONDS)
    except grpc.RpcError as error:
        return Reply(started, time.perf_counter(), error.code().name)
    probabilities = np.array(response.classifications[0].probabilities, np.float32)
    return Reply(started, time.perf_counter(), "OK", response.model_version, probabilities)


def main() -> None:
    """Print the tally, and how long a swap took."""
    settings = SwapSettings(_cli_parse_args=True)
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder)
        write_version(settings.bundle, models, 1)
        arguments = ("--models", folder, "--watch-seconds", str(WATCH_SECONDS), "--log-format", "json")
        with run_server(*arguments) as server:
            started = time.perf_counter()
            megabytes: list[float] = []
            found = swap_under_load(
                server.target,
                settings.bundle,
                models,
                settings.count,
                settings.callers,
                lambda: megabytes.append(server.resident_mb()),
            )
            seconds = time.perf_counter() - started
    rate = found.calls / seconds
    print(f"{settings.count} swaps in {seconds:.0f} s, {settings.callers} callers, {rate:,.0f} calls/s")
    print(found)
    early = settings.count // 10
    print(f"resident: {megabytes[early]:.0f} MB after {early + 1} swaps, {megabytes[-1]:.0f} MB after all")


if __name__ == "__main__":
    main()
