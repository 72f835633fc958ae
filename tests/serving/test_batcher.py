"""Every caller gets its own rows, nothing waits without bound, and nobody suffers for another's mistake."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.batcher import Answer, Batcher
from serving.ensemble import Pixels
from serving.errors import Overloaded, ShuttingDown
from serving.verdict import Floats

MEMBERS = 3


def images(*values: int) -> Pixels:
    """Images of one pixel each."""
    return np.array(values, np.uint8).reshape(-1, 1, 1, 1)


def echo(pixels: Pixels) -> Floats:
    """Every member answers with the image's own value, plus ten times its number."""
    values = pixels.reshape(-1).astype(np.float32)
    return np.stack([values + 1000 * member for member in range(MEMBERS)])[:, :, np.newaxis]


class Gate:
    """An ensemble that runs only when let, and remembers its batches."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.entered = threading.Event()
        self.batches: list[list[int]] = []

    def __call__(self, pixels: Pixels) -> Floats:
        self.batches.append(pixels.reshape(-1).tolist())
        self.entered.set()
        assert self.open.wait(10)
        return echo(pixels)


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open.set()


MakeBatcher = Callable[..., Batcher]


@pytest.fixture
def make_batcher(gate: Gate) -> Iterator[MakeBatcher]:
    made: list[Batcher] = []

    def make(run: Callable[[Pixels], Floats] = echo, batch: int = 8, queue: int = 100) -> Batcher:
        made.append(Batcher(run, batch, queue, lambda _: None))
        return made[-1]

    yield make
    gate.open.set()
    for batcher in made:
        batcher.close()


def values(answer: Future[Answer]) -> list[float]:
    """What member 0 said of each image."""
    return [float(value) for value in answer.result(10).members[0].reshape(-1)]


def test_an_answer_has_a_row_an_image_and_a_layer_a_member(make_batcher: MakeBatcher) -> None:
    answer = make_batcher().submit(images(5, 6)).result(10)
    assert answer.members.shape == (MEMBERS, 2, 1)
    assert answer.members[:, 1, 0].tolist() == [6, 1006, 2006]
    assert answer.queue_seconds >= 0
    assert answer.inference_seconds >= 0


def test_calls_that_wait_run_together_and_get_their_own_rows(make_batcher: MakeBatcher, gate: Gate) -> None:
    batcher = make_batcher(gate)
    first = batcher.submit(images(1))
    assert gate.entered.wait(10)
    waiting = [batcher.submit(images(2, 3)), batcher.submit(images(4)), batcher.submit(images(5, 6, 7))]
    gate.open.set()
    assert values(first) == [1]
    assert [values(answer) for answer in waiting] == [[2, 3], [4], [5, 6, 7]]
    assert gate.batches == [[1], [2, 3, 4, 5, 6, 7]]


def test_a_batch_holds_no_more_than_its_limit_and_keeps_the_order(make_batcher: MakeBatcher, gate: Gate) -> None:
    batcher = make_batcher(gate, batch=4)
    answers = [batcher.submit(images(0))]
    assert gate.entered.wait(10)
    answers += [batcher.submit(images(*call)) for call in ((1, 2, 3), (4, 5), (6,), (7, 8, 9, 10, 11, 12))]
    gate.open.set()
    for answer in answers:
        answer.result(10)
    assert gate.batches == [[0], [1, 2, 3], [4, 5, 6], [7, 8, 9, 10, 11, 12]]


def test_a_full_queue_refuses_at_once_and_takes_again_when_emptied(make_batcher: MakeBatcher, gate: Gate) -> None:
    batcher = make_batcher(gate, queue=3)
    running = batcher.submit(images(1))
    assert gate.entered.wait(10)
    waiting = batcher.submit(images(2, 3))
    with pytest.raises(Overloaded, match="2 images wait already, 2 more would exceed the limit of 3"):
        batcher.submit(images(4, 5))
    fits = batcher.submit(images(6))
    gate.open.set()
    assert [values(answer) for answer in (running, waiting, fits)] == [[1], [2, 3], [6]]
    assert values(batcher.submit(images(7, 8, 9))) == [7, 8, 9]


def test_a_call_cancelled_before_its_turn_never_runs(make_batcher: MakeBatcher, gate: Gate) -> None:
    batcher = make_batcher(gate)
    batcher.submit(images(1))
    assert gate.entered.wait(10)
    dropped, kept = batcher.submit(images(2)), batcher.submit(images(3))
    assert dropped.cancel()
    gate.open.set()
    assert values(kept) == [3]
    assert gate.batches == [[1], [3]]


def test_cancelled_calls_give_their_place_in_the_queue_back(make_batcher: MakeBatcher, gate: Gate) -> None:
    batcher = make_batcher(gate, queue=3)
    batcher.submit(images(1))
    assert gate.entered.wait(10)
    for _ in range(10):
        assert batcher.submit(images(2, 3)).cancel()
    fits = batcher.submit(images(4, 5, 6))
    gate.open.set()
    assert values(fits) == [4, 5, 6]


def test_a_failure_beside_the_members_fails_its_callers_alone() -> None:
    """Whatever goes wrong in the thread, it lives on."""

    def observe(size: int) -> None:
        if size == 2:
            raise RuntimeError("two")

    batcher = Batcher(echo, 8, 100, observe)
    with pytest.raises(RuntimeError, match="two"):
        batcher.submit(images(1, 2)).result(10)
    assert values(batcher.submit(images(3))) == [3]
    batcher.close()


def test_a_batch_of_cancelled_calls_alone_is_passed_over(make_batcher: MakeBatcher, gate: Gate) -> None:
    batcher = make_batcher(gate)
    batcher.submit(images(1))
    assert gate.entered.wait(10)
    assert batcher.submit(images(2)).cancel()
    gate.open.set()
    assert values(batcher.submit(images(3))) == [3]


def test_a_failing_ensemble_fails_its_callers_and_goes_on(make_batcher: MakeBatcher) -> None:
    def fail_on_zero(pixels: Pixels) -> Floats:
        if not pixels.all():
            raise ValueError("zero")
        return echo(pixels)

    batcher = make_batcher(fail_on_zero)
    with pytest.raises(ValueError, match="zero"):
        batcher.submit(images(0)).result(10)
    assert values(batcher.submit(images(1))) == [1]


def test_closing_answers_what_waits_and_refuses_what_comes(gate: Gate) -> None:
    batcher = Batcher(gate, 1, 100, lambda _: None)
    answers = [batcher.submit(images(value)) for value in range(5)]
    gate.open.set()
    batcher.close()
    assert [values(answer) for answer in answers] == [[value] for value in range(5)]
    with pytest.raises(ShuttingDown):
        batcher.submit(images(9))


def test_the_size_of_every_batch_is_observed(gate: Gate) -> None:
    sizes: list[int] = []
    batcher = Batcher(gate, 8, 100, sizes.append)
    batcher.submit(images(1))
    assert gate.entered.wait(10)
    batcher.submit(images(2, 3))
    batcher.submit(images(4))
    gate.open.set()
    batcher.close()
    assert sizes == [1, 3]


@settings(max_examples=30, deadline=None)
@given(
    calls=st.lists(st.tuples(st.integers(1, 7), st.booleans()), min_size=1, max_size=40),
    batch=st.integers(1, 16),
)
def test_every_caller_gets_its_own_rows(calls: list[tuple[int, bool]], batch: int) -> None:
    """Random sizes from eight threads, some of them cancelled at once."""
    batcher = Batcher(echo, batch, 1000, lambda _: None)

    def call(number: int, size: int, cancelled: bool) -> bool:
        sent = (np.arange(size) + 7 * number) % 256
        answer = batcher.submit(images(*sent.tolist()))
        if cancelled and answer.cancel():
            return True
        return values(answer) == sent.tolist()

    with ThreadPoolExecutor(8) as callers:
        outcomes = [callers.submit(call, number, *one) for number, one in enumerate(calls)]
        assert all(outcome.result(10) for outcome in outcomes)
    batcher.close()
