"""Three real servers of one stub model, and Envoy before them, for the tests that need many machines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.fleet import Replica, run_fleet
from benchmarks.tally import Question, questions_from
from tests.bundles import StubMember, write_bundle

DIGITS = sorted((Path(__file__).parents[2] / "examples/digits").glob("*.png"))
MEMBERS = (
    StubMember((0.7, 0.2, 0.1), tilt=(0.0, 3.0, 1.0)),
    StubMember((0.1, 0.5, 0.4), tilt=(1.0, 0.0, 2.0)),
)
"""Their answer depends on how bright an image is."""


@contextmanager
def run_stub_fleet(folder: Path) -> Iterator[list[Replica]]:
    """Three servers, each a process, of the stub model."""
    write_bundle(folder, MEMBERS)
    with run_fleet(3, "--models", str(folder), "--threads", "1") as replicas:
        yield replicas


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Replica]]:
    """Servers that a test may lose, if it starts them again."""
    with run_stub_fleet(tmp_path_factory.mktemp("models")) as replicas:
        yield replicas


@pytest.fixture(scope="module")
def questions(replicas: list[Replica]) -> list[Question]:
    """The example images, with the answers of a server that nothing has happened to."""
    return questions_from(DIGITS, "stub", replicas[0].target)


def targets_of(replicas: list[Replica]) -> list[str]:
    """Where they are."""
    return [replica.target for replica in replicas]
