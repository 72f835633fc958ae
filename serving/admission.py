"""What a call that asks a model goes through, by whichever service: let in, queued, waited for, measured."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import NoReturn

import grpc

from serving.at_end import at_end
from serving.batch import Answer, Effort
from serving.batcher import wait_for
from serving.ensemble import Pixels
from serving.errors import CallerGone, TooManyCalls
from serving.metrics.models import Timing
from serving.models import Model
from serving.observation import note_answer, note_question

LIMITED_METHODS = frozenset({"/consort.v1.Classifier/Classify", "/inference.GRPCInferenceService/ModelInfer"})
"""Those that ask a model."""
RETRY_SECONDS = 0.1
"""When to try again after too many calls were in progress."""


class Admission:
    """Lets a limited number of calls in; those beyond are refused at once."""

    def __init__(self, max_concurrent_calls: int) -> None:
        self._limit = max_concurrent_calls
        self._free = threading.Semaphore(max_concurrent_calls)
        self._calls: set[AdmittedCall] = set()

    def take_place(self) -> bool:
        """Hold a place for a call, from before a thread is spent on it; False if all are taken."""
        return self._free.acquire(blocking=False)

    def give_place_back(self) -> None:
        """Let another call have the place."""
        self._free.release()

    def refuse(self) -> NoReturn:
        """Turn a call away that found no place.

        Raises:
            TooManyCalls: Always.
        """
        raise TooManyCalls(
            f"{self._limit} calls are in progress, which is the limit; try again later", RETRY_SECONDS
        )

    @contextmanager
    def admit(self, context: grpc.ServicerContext) -> Iterator[AdmittedCall]:
        """Keep account of a call that has its place, from before it is decoded until its reply is ready."""
        call = AdmittedCall(context)
        self._calls.add(call)  # adding, discarding and copying are one step each: no lock
        try:
            yield call
        finally:
            self._calls.discard(call)

    def in_progress(self) -> set[AdmittedCall]:
        """The calls that have their place now. A call has it before it finds its model."""
        return self._calls.copy()


class AdmittedCall:
    """A call that has its place."""

    def __init__(self, context: grpc.ServicerContext) -> None:
        self._context = context
        self._arrived = time.perf_counter()
        self._decode_seconds = 0.0

    def ask(self, model: Model, pixels: Pixels, effort: Effort) -> Answer:
        """Queue the images and wait for their turn; a caller that goes before it takes them out of the queue.

        Raises:
            QueueFull: The images do not fit.
            ShuttingDown: The server is stopping.
            CallerGone: Nobody waits for the answer any more.
        """
        self._decode_seconds = time.perf_counter() - self._arrived
        note_question(model.manifest, len(pixels), self._arrived, self._decode_seconds)
        future = model.batcher.submit(pixels, effort, self._context.time_remaining())
        at_end(self._context, future.cancel)
        try:
            answer = wait_for(future)
        except CancelledError as error:
            raise CallerGone("nobody waits for the answer any more") from error
        if model.shadow is not None:
            model.shadow.offer(pixels, effort, answer.verdict)
        return answer

    def measure(self, model: Model, answer: Answer) -> Timing:
        """Count what was answered and where the time went, now that the reply is ready."""
        timing = Timing(
            decode_seconds=self._decode_seconds,
            queue_seconds=answer.queue_seconds,
            inference_seconds=answer.inference_seconds,
            total_seconds=time.perf_counter() - self._arrived,
        )
        model.metrics.count(answer.verdict)
        model.metrics.time(timing)
        note_answer(timing)
        return timing
