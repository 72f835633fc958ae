"""Every caller gets its own rows, nothing waits without bound, and nobody suffers for another's mistake."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.batch import Answer, Effort, Members
from serving.batcher import Batcher, wait_for
from serving.ensemble import Pixels
from serving.errors import CallerGone, Overloaded, ShuttingDown
from serving.inference import InferenceThreads
from serving.verdict import Counts, Floats, Verdict, judge
from tests.coroutines import run
from tests.serving import test_server

ALL = Effort(3)


def images(*values: int) -> Pixels:
    """Images of one pixel each."""
    return np.array(values, np.uint8).reshape(-1, 1, 1, 1)


class Echo:
    """Three members; each gives the image's own value, of 255, to class 0, and the rest to class 1."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        """What the first member was asked, batch by batch."""
        self.sizes: list[int] = []

    def run_member(self, member: int, pixels: Pixels) -> Floats:
        values = pixels.reshape(-1)
        if member == 0:
            self.batches.append(values.tolist())
        share = values.astype(np.float32) / 255
        return np.stack([share, 1 - share], axis=1)

    def judge(self, members: Floats, members_run: Counts) -> Verdict:
        return judge(members, members_run, 1.0)

    def observe_batch(self, images: int) -> None:
        self.sizes.append(images)


class Gate(Echo):
    """Runs only when let."""

    def __init__(self) -> None:
        super().__init__()
        self.open = threading.Event()
        self.entered = threading.Event()

    def run_member(self, member: int, pixels: Pixels) -> Floats:
        said = super().run_member(member, pixels)
        self.entered.set()
        assert self.open.wait(60)
        return said


@contextmanager
def serve(
    members: Members, *, threads: int = 1, batch: int = 8, queue: int = 100, delay: float = 0.0
) -> Iterator[Batcher]:
    """A batcher with inference threads of its own; ends when all is answered."""
    inference = InferenceThreads(threads)
    yield Batcher(members, inference, max_batch_images=batch, max_queue_images=queue, max_delay_seconds=delay)
    inference.close()


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open.set()


def busy(batcher: Batcher, gate: Gate, value: int = 1) -> Future[Answer]:
    """Occupy the only inference thread until the gate opens."""
    running = batcher.submit(images(value), ALL)
    assert gate.entered.wait(60)
    return running


def values(answer: Future[Answer]) -> list[int]:
    """What the last member said of each image."""
    return [round(float(value) * 255) for value in answer.result(60).verdict.members[-1, :, 0]]


def test_an_answer_is_of_the_callers_images_by_all_members() -> None:
    with serve(Echo()) as batcher:
        answer = batcher.submit(images(51, 204), ALL).result(60)
    assert answer.verdict.members.shape == (3, 2, 2)
    assert answer.verdict.probabilities == pytest.approx(np.array([[0.2, 0.8], [0.8, 0.2]]))
    assert answer.verdict.members_run.tolist() == [3, 3]
    assert answer.queue_seconds >= 0
    assert answer.inference_seconds > 0


def test_calls_that_wait_run_together_and_get_their_own_rows(gate: Gate) -> None:
    with serve(gate) as batcher:
        first = busy(batcher, gate)
        waiting = [batcher.submit(images(*call), ALL) for call in ((2, 3), (4,), (5, 6, 7))]
        gate.open.set()
        assert values(first) == [1]
        assert [values(answer) for answer in waiting] == [[2, 3], [4], [5, 6, 7]]
    assert gate.batches == [[1], [2, 3, 4, 5, 6, 7]]
    assert gate.sizes == [1, 6]


def test_a_batch_holds_no_more_than_its_limit_and_fills_up_from_behind(gate: Gate) -> None:
    """A call that does not fit is first in the next batch; one larger than the limit runs alone."""
    with serve(gate, batch=4) as batcher:
        busy(batcher, gate, 0)
        for call in ((1, 2, 3), (4, 5), (6,), (7, 8, 9, 10, 11, 12), (13,)):
            batcher.submit(images(*call), ALL)
        gate.open.set()
    assert gate.batches == [[0], [1, 2, 3, 6], [4, 5, 13], [7, 8, 9, 10, 11, 12]]


def test_calls_that_ask_differently_do_not_run_together(gate: Gate) -> None:
    with serve(gate) as batcher:
        busy(batcher, gate)
        efforts = (ALL, Effort(2), ALL, Effort(3, early_stop=True))
        answers = [batcher.submit(images(value), effort) for value, effort in enumerate(efforts, 2)]
        gate.open.set()
        assert [answer.result(60).verdict.members_run.tolist() for answer in answers] == [[3], [2], [3], [2]]
    assert gate.batches == [[1], [2, 4], [3], [5]]


def test_members_of_one_batch_run_side_by_side() -> None:
    """Three threads meet inside one call's three members."""
    meeting = threading.Barrier(3)

    class Meeting(Echo):
        def run_member(self, member: int, pixels: Pixels) -> Floats:
            meeting.wait(60)
            return super().run_member(member, pixels)

    with serve(Meeting(), threads=3) as batcher:
        assert values(batcher.submit(images(9), ALL)) == [9]


def test_a_free_core_does_not_wait_for_a_batch_to_end() -> None:
    """While the last member of one batch holds a thread, the other thread answers the next call."""
    held, release = threading.Event(), threading.Event()

    class Slow(Echo):
        def run_member(self, member: int, pixels: Pixels) -> Floats:
            if member == 2 and pixels[0, 0, 0, 0] == 1:
                held.set()
                assert release.wait(60)
            return super().run_member(member, pixels)

    with serve(Slow(), threads=2) as batcher:
        slow = batcher.submit(images(1), ALL)
        assert held.wait(60)
        assert values(batcher.submit(images(2), ALL)) == [2]
        assert not slow.done()
        release.set()
        assert values(slow) == [1]


def test_the_queue_that_has_waited_longest_is_next(gate: Gate) -> None:
    """Two models share the threads."""
    threads = InferenceThreads(1)
    other = Echo()
    first, second = (
        Batcher(members, threads, max_batch_images=8, max_queue_images=100) for members in (gate, other)
    )
    busy(first, gate)
    order: list[str] = []
    for name, batcher in (("second", second), ("first", first)):
        batcher.submit(images(2), ALL).add_done_callback(lambda _, name=name: order.append(name))  # type: ignore[misc]
    gate.open.set()
    threads.close()
    assert order == ["second", "first"]


def test_with_a_delay_a_call_waits_for_company_and_a_full_batch_does_not() -> None:
    echo = Echo()
    with serve(echo, batch=3, delay=10) as batcher:
        answers = [batcher.submit(images(value), ALL) for value in (1, 2, 3)]
        assert [values(answer) for answer in answers] == [[1], [2], [3]]
    assert echo.batches == [[1, 2, 3]]


def test_closing_does_not_wait_for_company() -> None:
    with serve(Echo(), delay=10) as batcher:
        answer = batcher.submit(images(1), ALL)
        batcher.close()
        assert values(answer) == [1]


def test_a_full_queue_refuses_at_once_and_takes_again_when_emptied(gate: Gate) -> None:
    with serve(gate, queue=3) as batcher:
        running = busy(batcher, gate)
        waiting = batcher.submit(images(2, 3), ALL)
        with pytest.raises(Overloaded, match="2 images wait already, 2 more would exceed the limit of 3") as error:
            batcher.submit(images(4, 5), ALL)
        assert 0 < error.value.retry_after_seconds < 60
        fits = batcher.submit(images(6), ALL)
        gate.open.set()
        assert [values(answer) for answer in (running, waiting, fits)] == [[1], [2, 3], [6]]
        assert values(batcher.submit(images(7, 8, 9), ALL)) == [7, 8, 9]


def test_a_call_cancelled_before_its_turn_never_runs(gate: Gate) -> None:
    with serve(gate) as batcher:
        busy(batcher, gate)
        dropped, kept = batcher.submit(images(2), ALL), batcher.submit(images(3), ALL)
        assert dropped.cancel()
        gate.open.set()
        assert values(kept) == [3]
    assert gate.batches == [[1], [3]]


def test_a_call_whose_deadline_passes_before_its_turn_never_runs(gate: Gate) -> None:
    with serve(gate) as batcher:
        busy(batcher, gate)
        late, kept = batcher.submit(images(2), ALL, 0.01), batcher.submit(images(3), ALL, 60)
        time.sleep(0.02)
        gate.open.set()
        assert values(kept) == [3]
        with pytest.raises(CallerGone, match="deadline passed"):
            late.result(60)
    assert gate.batches == [[1], [3]]


async def lose(late: Future[Answer]) -> None:
    with pytest.raises(CallerGone, match="deadline passed"):
        await wait_for(late)


def test_nothing_is_kept_of_a_call_whose_deadline_passed(gate: Gate) -> None:
    """Not even until the garbage collector comes: it may be many megabytes of images."""
    with serve(gate) as batcher:
        busy(batcher, gate)
        late = batcher.submit(images(2), ALL, 0.01)
        time.sleep(0.02)
        gate.open.set()
        gc.disable()
        try:
            run(lose(late))
            kept = weakref.ref(late)
            del late
            test_server.wait_for(lambda: kept() is None)  # the inference thread may have it in hand still
        finally:
            gc.enable()


def test_calls_that_have_gone_give_their_place_in_the_queue_back(gate: Gate) -> None:
    with serve(gate, queue=4) as batcher:
        busy(batcher, gate)
        for _ in range(10):
            assert batcher.submit(images(2, 3), ALL).cancel()
            batcher.submit(images(4), ALL, 0.0)
        fits = batcher.submit(images(4, 5, 6, 7), ALL)
        gate.open.set()
        assert values(fits) == [4, 5, 6, 7]


def test_calls_that_have_all_gone_are_passed_over(gate: Gate) -> None:
    with serve(gate) as batcher:
        busy(batcher, gate)
        assert batcher.submit(images(2), ALL).cancel()
        gate.open.set()
        assert values(batcher.submit(images(3), ALL)) == [3]


class FailsOnZero(Gate):
    """Cannot run a batch with a black image in it."""

    def run_member(self, member: int, pixels: Pixels) -> Floats:
        said = super().run_member(member, pixels)
        if member == 1 and not pixels.all():
            raise ValueError("zero")
        return said


def test_a_poisoned_call_fails_alone() -> None:
    poisoned = FailsOnZero()
    with serve(poisoned) as batcher:
        busy(batcher, poisoned)
        answers = [batcher.submit(images(value), ALL) for value in (2, 0, 3)]
        poisoned.open.set()
        assert [values(answers[0]), values(answers[2])] == [[2], [3]]
        with pytest.raises(ValueError, match="zero"):
            answers[1].result(60)
        assert values(batcher.submit(images(4), ALL)) == [4], "the threads live on"
    assert poisoned.batches[1] == [2, 0, 3], "they had run together"


def test_a_failure_beside_the_members_fails_its_callers_alone() -> None:
    class Miscounts(Echo):
        def observe_batch(self, images: int) -> None:
            if images == 2:
                raise RuntimeError("two")

    with serve(Miscounts()) as batcher:
        with pytest.raises(RuntimeError, match="two"):
            batcher.submit(images(1, 2), ALL).result(60)
        assert values(batcher.submit(images(3), ALL)) == [3]


def test_calls_that_there_is_no_memory_to_put_together_run_each_for_itself(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    with serve(gate) as batcher:
        busy(batcher, gate)
        answers = [batcher.submit(images(value), ALL) for value in (2, 3)]
        monkeypatch.setattr("serving.batch.np.concatenate", fail)
        gate.open.set()
        assert [values(answer) for answer in answers] == [[2], [3]]


def is_closing(batcher: Batcher) -> bool:
    """Whether it takes no more calls; leaves it as it was."""
    try:
        return not batcher.submit(images(0), ALL).cancel()
    except ShuttingDown:
        return True


def test_closing_does_not_wait_for_callers_that_have_gone(gate: Gate) -> None:
    """Their calls are all that waits when the only core becomes free."""
    threads = InferenceThreads(1)
    busy, left = (
        Batcher(gate, threads, max_batch_images=8, max_queue_images=100),
        Batcher(Echo(), threads, max_batch_images=8, max_queue_images=100),
    )
    running = busy.submit(images(1), ALL)
    assert gate.entered.wait(60)
    assert left.submit(images(2), ALL).cancel()
    closing = threading.Thread(target=left.close, daemon=True)
    closing.start()
    while not is_closing(left):
        pass
    gate.open.set()
    running.result(60)
    closing.join(60)
    assert not closing.is_alive()
    threads.close()


def test_closing_answers_what_waits_and_refuses_what_comes(gate: Gate) -> None:
    with serve(gate, batch=1) as batcher:
        answers = [batcher.submit(images(value), ALL) for value in range(5)]
        gate.open.set()
        batcher.close()
        assert all(answer.done() for answer in answers)
        assert [values(answer) for answer in answers] == [[value] for value in range(5)]
        with pytest.raises(ShuttingDown):
            batcher.submit(images(9), ALL)


class Recorded(Echo):
    """Says what it was given, (members, images, classes); an image's pixel is its index."""

    def __init__(self, said: Floats) -> None:
        super().__init__()
        self.said = said
        self.ran: list[tuple[int, int]] = []

    def run_member(self, member: int, pixels: Pixels) -> Floats:
        self.ran += [(member, image) for image in pixels.reshape(-1).tolist()]
        said: Floats = self.said[member, pixels.reshape(-1)]
        return said


def test_an_image_leaves_once_its_class_is_settled() -> None:
    """Four members, three images: settled after three members, after all four, and never before the end."""
    sure, unsure, other = (1.0, 0.0), (0.6, 0.4), (0.0, 1.0)
    said = np.array(
        [[sure, sure, unsure], [sure, other, unsure], [sure, sure, unsure], [other, sure, unsure]], np.float32
    )
    members = Recorded(said)
    with serve(members) as batcher:
        verdict = batcher.submit(images(0, 1, 2), Effort(4, early_stop=True)).result(60).verdict
    assert verdict.members_run.tolist() == [3, 4, 4]
    assert verdict.probabilities[:, 0] == pytest.approx([1.0, 0.75, 0.6])
    assert verdict.agreement.tolist() == pytest.approx([1.0, 0.75, 1.0])
    assert sorted(members.ran) == [
        (member, image) for member in range(4) for image in range(3) if (member, image) != (3, 0)
    ]


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    members=st.integers(1, 7),
    limit=st.integers(1, 7),
    classes=st.integers(2, 5),
    sharpness=st.sampled_from([0.5, 3.0, 20.0]),
)
def test_early_stop_gives_the_class_that_all_members_asked_would_give(
    seed: int, members: int, limit: int, classes: int, sharpness: float
) -> None:
    logits = np.random.default_rng(seed).normal(size=(members, 30, classes)) * sharpness
    powers = np.exp(logits - logits.max(axis=2, keepdims=True))
    said = (powers / powers.sum(axis=2, keepdims=True)).astype(np.float32)
    limit = min(limit, members)
    recorded = Recorded(said)
    with serve(recorded, threads=2) as batcher:
        verdict = batcher.submit(images(*range(30)), Effort(limit, early_stop=True)).result(60).verdict
    full = judge(said[:limit], np.full(30, limit), 1.0)
    assert verdict.ranking[:, 0].tolist() == full.ranking[:, 0].tolist()
    assert sorted(recorded.ran) == sorted(
        (member, image) for image, ran in enumerate(verdict.members_run.tolist()) for member in range(ran)
    )


@settings(max_examples=50, deadline=None)
@given(
    calls=st.lists(
        st.tuples(st.integers(1, 7), st.sampled_from(["kept", "cancelled", "late", "poisoned"]), st.booleans()),
        min_size=1,
        max_size=40,
    ),
    batch=st.integers(1, 16),
    threads=st.integers(1, 3),
)
def test_every_caller_gets_its_own_rows(calls: list[tuple[int, str, bool]], batch: int, threads: int) -> None:
    """Random sizes from eight threads; some are cancelled, some too late, some cannot be run."""
    members = FailsOnZero()
    members.open.set()

    def call(number: int, size: int, fate: str, early: bool) -> bool:
        sent = 1 + (np.arange(size) + 7 * number) % 255
        if fate == "poisoned":
            sent[-1] = 0
        answer = batcher.submit(images(*sent.tolist()), Effort(3, early), 0.0 if fate == "late" else None)
        if fate == "cancelled" and answer.cancel():
            return True
        if fate in ("late", "poisoned"):
            return isinstance(answer.exception(10), CallerGone if fate == "late" else ValueError)
        verdict = answer.result(60).verdict
        return [round(float(share) * 255) for share in verdict.members[0, :, 0]] == sent.tolist()

    with serve(members, threads=threads, batch=batch, queue=1000) as batcher, ThreadPoolExecutor(8) as callers:
        outcomes = [callers.submit(call, number, *one) for number, one in enumerate(calls)]
        assert all(outcome.result(60) for outcome in outcomes)
