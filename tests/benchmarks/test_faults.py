"""What the tally of lost servers counts, and which failures it blames on an outage."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from unittest.mock import Mock

import grpc
import pytest

from benchmarks.faults import Outage, was_down
from benchmarks.tally import Question, Tally
from protos.consort.v1 import classifier_pb2 as pb

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC).timestamp()
OUTAGE = Outage("10.0.0.1:8001", NOON, NOON + 2)
QUESTION = Question(pb.ClassifyRequest(), [0.75, 0.25])


class Lost(grpc.RpcError):
    """What gRPC raises, as far as a tally looks."""

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE


def answer(*probabilities: float) -> pb.ClassifyResponse:
    return pb.ClassifyResponse(classifications=[pb.Classification(probabilities=probabilities)])


def server_that_says(response: pb.ClassifyResponse | Exception) -> Mock:
    """A method that always answers the same."""
    return Mock(side_effect=[response])


@pytest.mark.parametrize(
    ("response", "right"),
    [
        (answer(0.75, 0.25), True),
        (answer(0.750001, 0.249999), True),
        (answer(0.7499, 0.2501), False),
        (answer(0.25, 0.75), False),
        (pb.ClassifyResponse(), False),
        (pb.ClassifyResponse(classifications=[*answer(0.75, 0.25).classifications] * 2), False),
    ],
)
def test_an_answer_is_right_only_with_the_probabilities_known_before(
    response: pb.ClassifyResponse, right: bool
) -> None:
    tally = Tally()
    tally.ask(server_that_says(response), QUESTION)
    assert (tally.right, tally.wrong, tally.failed.total()) == (right, not right, 0)


def test_calls_without_answer_are_counted_by_status() -> None:
    tally = Tally(slowest=99.0)
    tally.ask(server_that_says(answer(0.75, 0.25)), QUESTION)
    for _ in range(2):
        tally.ask(server_that_says(Lost()), QUESTION)
    assert str(tally) == "1 right, 0 wrong, 2 failed, 2 UNAVAILABLE, slowest 99.00 s"


@pytest.mark.parametrize(
    ("upstream", "began", "milliseconds", "down"),
    [
        ("10.0.0.1:8001", "2026-01-01T12:00:01.000Z", 5, True),
        ("10.0.0.1:8001", "2026-01-01T11:59:59.990Z", 20, True),  # it was on its way
        ("10.0.0.1:8001", "2026-01-01T11:59:59.990Z", 5, False),
        ("10.0.0.1:8001", "2026-01-01T12:00:02.001Z", 5, False),
        ("10.0.0.2:8001", "2026-01-01T12:00:01.000Z", 5, False),
        (None, "2026-01-01T12:00:01.000Z", 5, False),
    ],
)
def test_a_failure_is_blamed_on_its_own_server_while_that_was_down(
    upstream: str | None, began: str, milliseconds: int, down: bool
) -> None:
    failure: dict[str, Any] = {"upstream": upstream, "timestamp": began, "milliseconds": milliseconds}
    assert was_down(failure, [OUTAGE]) is down
