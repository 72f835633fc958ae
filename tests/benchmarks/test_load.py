"""Load on a server: every call is counted once, by what came of it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from benchmarks.load import Load, callers, classify_request, drive, pixels_of
from serving.server import Server
from tests.conftest import StartServer
from tests.serving.test_server import scrape, target

SHAPE = (1, 4, 4)


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    """Two processes to call from."""
    with callers(2) as pool:
        yield pool


def load(server: Server, *, many: int, rate: float | None = None, model: str = "stub", images: int = 1) -> Load:
    request = classify_request(pixels_of(images, SHAPE), model)
    return Load(target(server), request, images, many, 0.3, rate)


def images_answered(server: Server) -> float:
    """What the server says."""
    return scrape(server)[("consort_batch_images_sum", frozenset({("model", "stub"), ("version", "1")}))]


def test_callers_that_wait(models: Path, start_server: StartServer, pool: ProcessPoolExecutor) -> None:
    """Of the images that the server counts, those of the warm-up are left out."""
    server = start_server(models)
    outcome = drive(load(server, many=3, images=2), pool, 2)
    assert outcome.refused_seconds == {}
    assert outcome.images == 2 * len(outcome.seconds)
    assert 0 < outcome.images < images_answered(server)


def test_arrivals_at_a_fixed_rate(models: Path, start_server: StartServer, pool: ProcessPoolExecutor) -> None:
    """100 a second for 0.3 s."""
    outcome = drive(load(start_server(models), many=1, rate=100), pool, 1)
    assert len(outcome.seconds) in (29, 30, 31)


def test_a_message_of_several_frames(models: Path, start_server: StartServer, pool: ProcessPoolExecutor) -> None:
    """Of at most 16,384 bytes each."""
    server = start_server(models, max_call_images=1100)
    outcome = drive(load(server, many=1, images=1100), pool, 1)
    assert outcome.refused_seconds == {}
    assert images_answered(server) >= 1100


def test_refusals_are_counted_by_status(
    models: Path, start_server: StartServer, pool: ProcessPoolExecutor
) -> None:
    outcome = drive(load(start_server(models), many=2, model="none"), pool, 2)
    assert outcome.seconds == []
    assert outcome.refused_seconds.keys() == {"NOT_FOUND"}
    assert min(outcome.refused_seconds["NOT_FOUND"]) > 0
