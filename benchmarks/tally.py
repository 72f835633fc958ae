"""Callers that check every answer, and the tally of what they got."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

import grpc
import numpy as np

from protos.consort.v1 import classifier_pb2 as pb
from protos.consort.v1 import classifier_pb2_grpc
from serving.client import Client

TIMEOUT_SECONDS = 10.0
TOLERANCE = 1e-5
"""Of a probability: batches of different sizes may round differently."""


@dataclass(frozen=True)
class Question:
    """A request, and the probabilities that a server gave when nothing was wrong."""

    request: pb.ClassifyRequest
    probabilities: Sequence[float]

    def is_answered_by(self, response: pb.ClassifyResponse) -> bool:
        """Whether there is one image, with these probabilities."""
        return len(response.classifications) == 1 and np.allclose(
            response.classifications[0].probabilities, self.probabilities, rtol=0, atol=TOLERANCE
        )


@dataclass
class Tally:
    """What came of many calls.

    Attributes:
        right: Answered as they should.
        wrong: Answered otherwise.
        failed: Not answered, by gRPC status.
        slowest: The longest that a caller waited for what it got, in seconds.
    """

    right: int = 0
    wrong: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    _lock: Lock = field(default_factory=Lock)

    def __str__(self) -> str:
        codes = "".join(f", {count:,} {code}" for code, count in self.failed.items())
        return (
            f"{self.right:,} right, {self.wrong:,} wrong, {self.failed.total():,} failed{codes}, "
            f"slowest {self.slowest:.2f} s"
        )

    def ask(self, classify: Callable[..., pb.ClassifyResponse], question: Question) -> None:
        """Make one call and count what came of it; many threads may."""
        started = time.perf_counter()
        try:
            outcome = question.is_answered_by(classify(question.request, timeout=TIMEOUT_SECONDS))
            code = ""
        except grpc.RpcError as error:
            outcome, code = False, error.code().name
        seconds = time.perf_counter() - started
        with self._lock:
            self.slowest = max(self.slowest, seconds)
            if code:
                self.failed[code] += 1
            elif outcome:
                self.right += 1
            else:
                self.wrong += 1


def questions_from(images: Sequence[Path], model: str, target: str) -> list[Question]:
    """A question for each image file, with the answers that a server gives now."""
    with Client(target) as client:
        answers = client.classify(images, model=model).classifications
    requests = (
        pb.ClassifyRequest(model_name=model, encoded=pb.EncodedImages(files=[image.read_bytes()]))
        for image in images
    )
    return [
        Question(request, answer.probabilities.tolist()) for request, answer in zip(requests, answers, strict=True)
    ]


def ask_while(
    goes_on: Callable[[], bool], channel: grpc.Channel, questions: Sequence[Question], callers: int, tally: Tally
) -> None:
    """Ask all questions over and over, from so many callers on one channel, as long as `goes_on` says."""
    classify = classifier_pb2_grpc.ClassifierStub(channel).Classify

    def call_repeatedly(caller: int) -> None:
        number = caller
        while goes_on():
            tally.ask(classify, questions[number % len(questions)])
            number += 1

    with ThreadPoolExecutor(callers) as threads:
        list(threads.map(call_repeatedly, range(callers)))
