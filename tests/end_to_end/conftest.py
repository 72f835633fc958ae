"""Three real servers of one stub model, and Envoy before them, for the tests that need many machines."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.edge import Edge, run_envoy
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
    watched = ("--access-log-share", "1e-9")  # so that calls have ids, of which next to none are logged
    with run_fleet(3, "--models", str(folder), "--threads", "1", *watched) as replicas:
        yield replicas


@pytest.fixture(scope="session")
def questions(replicas: list[Replica]) -> list[Question]:
    """The example images, with the answers of a server that nothing has happened to."""
    return questions_from(DIGITS, "stub", replicas[0].target)


def targets_of(replicas: list[Replica]) -> list[str]:
    """Where they are."""
    return [replica.target for replica in replicas]


@pytest.fixture(scope="module")
def edge(replicas: list[Replica], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    with run_envoy(targets_of(replicas), tmp_path_factory.mktemp("edge")) as edge:
        edge.wait_until_healthy(3)
        yield edge


@dataclass(frozen=True)
class Reply:
    """What came back over HTTP."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        """The body, which is JSON."""
        assert self.headers["content-type"] == "application/json"
        return json.loads(self.body)


def send(target: str, method: str, path: str, body: bytes | None = None, **headers: str) -> Reply:
    """One request over HTTP/1.1; underscores in the names of headers stand for hyphens."""
    connection = http.client.HTTPConnection(target, timeout=60)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    reply = connection.getresponse()
    found = Reply(reply.status, reply.headers, reply.read())
    connection.close()
    return found
