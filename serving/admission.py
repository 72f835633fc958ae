"""What a call that asks a model goes through, by whichever service: let in, queued, waited for, measured.

Everything here happens on the thread of the calls' event loop, but for `in_progress`.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Self

from serving.batch import Answer, Effort
from serving.batcher import wait_for
from serving.context import Context
from serving.ensemble import Pixels
from serving.errors import CallerGone, TooManyCalls
from serving.messages import Behavior, Messages
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
        self._taken = 0
        self._calls: set[AdmittedCall] = set()

    def is_full(self) -> bool:
        """Whether there is no place for another call."""
        return self._taken >= self._limit

    def refusal(self) -> TooManyCalls:
        """What is said to calls that find no place."""
        return TooManyCalls(
            f"{self._limit} calls are in progress, which is the limit; try again later", RETRY_SECONDS
        )

    def __enter__(self) -> None:
        """Hold a place for a call, from before its message is read until it has ended.

        Raises:
            TooManyCalls: There is none.
        """
        if self.is_full():
            raise self.refusal()
        self._taken += 1

    def __exit__(self, *_: object) -> None:
        self._taken -= 1

    def limit(self, behavior: Behavior) -> Behavior:
        """`behavior`, in a place of its own."""

        async def answer(messages: Messages, context: Context) -> Any:
            """Answer in that place."""
            with self:
                return await behavior(messages, context)

        return answer

    def admit(self, context: Context) -> AdmittedCall:
        """Keep account of a call that has its place, from before it is decoded until its reply is ready."""
        return AdmittedCall(context, self._calls)

    def in_progress(self) -> set[AdmittedCall]:
        """The calls that are admitted now, for any thread. A call is, before it finds its model."""
        return self._calls.copy()  # adding, discarding and copying are one step each: no lock


class AdmittedCall:
    """A call that has its place, while it is entered."""

    def __init__(self, context: Context, calls: set[AdmittedCall]) -> None:
        self._context = context
        self._calls = calls
        self._asked = time.perf_counter()
        self._decode_seconds = 0.0
        self._asked_all = False
        self._has_run = False

    def __enter__(self) -> Self:
        self._calls.add(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        self._calls.discard(self)
        if self._has_run and isinstance(error, asyncio.CancelledError):
            raise _gone(ran=True) from error

    async def ask(self, model: Model, pixels: Pixels, effort: Effort) -> Answer:
        """Queue the images and wait for their turn; a caller that goes before it takes them out of the queue.

        Raises:
            QueueFull: The images do not fit.
            ShuttingDown: The server is stopping.
            CallerGone: Nobody waits for the answer any more.
        """
        self._decode_seconds = time.perf_counter() - self._asked
        self._asked_all = effort == Effort(len(model.manifest.members))
        note_question(model.manifest, len(pixels), self._asked, self._decode_seconds)
        future = model.batcher.submit(pixels, effort, self._context.time_remaining())
        try:
            answer = await wait_for(future)
        except asyncio.CancelledError as error:
            raise _gone(ran=not future.cancelled()) from error
        self._has_run = True
        if model.shadow is not None:
            model.shadow.offer(pixels, effort, answer.verdict)
        return answer

    def measure(self, model: Model, answer: Answer) -> Timing:
        """Count what was answered and where the time went, now that the reply is ready."""
        timing = Timing(
            decode_seconds=self._decode_seconds,
            queue_seconds=answer.queue_seconds,
            inference_seconds=answer.inference_seconds,
            total_seconds=time.perf_counter() - self._asked,
        )
        model.metrics.count(answer.verdict, asked_all=self._asked_all)
        model.metrics.time(timing)
        note_answer(timing)
        return timing


def _gone(*, ran: bool) -> CallerGone:
    return CallerGone("nobody waits for the answer any more", ran=ran)
