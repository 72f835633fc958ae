"""Three real servers of one stub model, for the tests that need many machines."""

from __future__ import annotations

from collections.abc import Iterator
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


@pytest.fixture(scope="session")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Replica]]:
    """Servers, each a process, which a test may lose if it starts them again."""
    folder = tmp_path_factory.mktemp("models")
    write_bundle(folder, MEMBERS)
    with run_fleet(3, "--models", str(folder), "--threads", "1") as replicas:
        yield replicas


@pytest.fixture(scope="session")
def questions(replicas: list[Replica]) -> list[Question]:
    """The example images, with the answers of a server that nothing has happened to."""
    return questions_from(DIGITS, "stub", replicas[0].target)


def targets_of(replicas: list[Replica]) -> list[str]:
    """Where they are."""
    return [replica.target for replica in replicas]
