"""Load on a server, from processes of its own: callers that wait for each answer, or arrivals at a fixed rate.

Callers in a closed loop slow down with the server and so hide its queue; arrivals at a fixed rate do not. Requests
are the same bytes each time, sent by `frames`, and replies are not parsed, so that the callers take little of what
they measure.
"""

from __future__ import annotations

import http.client
import itertools
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from selectors import EVENT_READ, BaseSelector, SelectSelector
from typing import cast

import numpy as np
import numpy.typing as npt

from benchmarks.frames import Connection
from protos.consort.v1 import classifier_pb2 as pb

METHOD = "/consort.v1.Classifier/Classify"
POST = "POST "
WARM_UP_SECONDS = 0.5
TIMEOUT_SECONDS = 30.0
CONNECTIONS = 16
"""That arrivals at a fixed rate are spread over, so that none has more calls in progress than a server allows."""


@dataclass(frozen=True)
class Load:
    """What is asked of a server.

    Attributes:
        target: Host and port.
        request: The serialized message.
        images: How many are in it.
        callers: How many wait for an answer at the same time, each on a connection of its own.
        seconds: How long, after a warm-up.
        rate: Calls a second in all, whether answered or not; None has each caller call again once it is answered.
        method: Of gRPC; or, after "POST ", a path of HTTP, for callers that wait.
    """

    target: str
    request: bytes
    images: int
    callers: int
    seconds: float
    rate: float | None = None
    method: str = METHOD


@dataclass
class Outcome:
    """What came of a load.

    Attributes:
        seconds: Latency of each call that was answered; at a fixed rate counted from when it was due.
        refused_seconds: Latency of each call that was not answered, by gRPC status.
        elapsed: From the first call counted to the last answer, in seconds.
        images: In all calls that were answered.
    """

    seconds: list[float] = field(default_factory=list)
    refused_seconds: dict[str, list[float]] = field(default_factory=dict)
    elapsed: float = 0.0
    images: int = 0

    def images_per_second(self) -> float:
        """Images answered a second."""
        return self.images / self.elapsed

    def percentile_ms(self, share: float) -> float:
        """Latency that a share (0..100) of the answered calls stay below, in milliseconds."""
        return float(np.percentile(self.seconds, share)) * 1e3


def pixels_of(images: int, shape: Sequence[int], seed: int = 0) -> npt.NDArray[np.uint8]:
    """Noise, uint8 (images, channels, height, width); speed does not depend on what a picture shows."""
    return np.random.default_rng(seed).integers(0, 256, (images, *shape), np.uint8)


def classify_request(
    pixels: npt.NDArray[np.uint8],
    model: str,
    version: int = 0,
    *,
    early_stop: bool = False,
    max_members: int = 0,
) -> bytes:
    """A serialized request for raw pixels; version 0 is the default one."""
    raw = pb.RawImages(pixels=pixels.tobytes(), shape=pixels.shape, element_type=pb.ELEMENT_TYPE_UINT8)
    return pb.ClassifyRequest(
        raw=raw, model_name=model, model_version=version, early_stop=early_stop, max_members=max_members
    ).SerializeToString()


@contextmanager
def callers(processes: int) -> Iterator[ProcessPoolExecutor]:
    """Processes to send load from, kept for many loads."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        list(pool.map(time.sleep, [0.01] * processes))  # start them now
        yield pool


def drive(load: Load, pool: ProcessPoolExecutor, processes: int) -> Outcome:
    """Put load on a server from several processes, and gather what came of it."""
    used = min(processes, load.callers)
    shares = [load.callers // used + (number < load.callers % used) for number in range(used)]
    loads = [
        replace(load, callers=share, rate=None if load.rate is None else load.rate * share / load.callers)
        for share in shares
    ]
    gathered = Outcome()
    for outcome in pool.map(_call_repeatedly, loads):
        gathered.seconds += outcome.seconds
        gathered.images += outcome.images
        gathered.elapsed = max(gathered.elapsed, outcome.elapsed)
        for code, seconds in outcome.refused_seconds.items():
            gathered.refused_seconds.setdefault(code, []).extend(seconds)
    return gathered


def _call_repeatedly(load: Load) -> Outcome:
    outcome = Outcome()
    begin = time.perf_counter() + WARM_UP_SECONDS
    if load.method.startswith(POST):
        with ThreadPoolExecutor(load.callers) as threads:
            list(threads.map(lambda _: _post_repeatedly(load, begin, outcome), range(load.callers)))
    elif load.rate is None:
        _closed_loop(load, begin, outcome)
    else:
        _open_loop(load, load.rate, begin, outcome)
    outcome.elapsed = time.perf_counter() - begin
    return outcome


def _post_repeatedly(load: Load, begin: float, outcome: Outcome) -> None:
    with closing(http.client.HTTPConnection(load.target, timeout=TIMEOUT_SECONDS)) as connection:
        while (started := time.perf_counter()) < begin + load.seconds:
            code = _post(connection, load)
            if started >= begin:
                _note(outcome, load, code, time.perf_counter() - started)


def _post(connection: http.client.HTTPConnection, load: Load) -> str:
    connection.request("POST", load.method.removeprefix(POST), load.request, {"Content-Type": "application/json"})
    response = connection.getresponse()
    response.read()
    return "OK" if response.status == http.HTTPStatus.OK else str(response.status)


def _closed_loop(load: Load, begin: float, outcome: Outcome) -> None:
    """One thread looks after all callers."""
    started: dict[Connection, float] = {}
    with _connections(load, load.callers) as (connections, selector):

        def call(connection: Connection) -> None:
            started[connection] = time.perf_counter()
            connection.call()

        for connection in connections:
            call(connection)
        while started:
            for connection, _, code in _ended(selector, None):
                now, since = time.perf_counter(), started.pop(connection)
                if since >= begin:
                    _note(outcome, load, code, now - since)
                if now < begin + load.seconds:
                    call(connection)


def _open_loop(load: Load, rate: float, begin: float, outcome: Outcome) -> None:
    """Calls are due at even intervals; a late one is sent at once, and its delay counts."""
    due_at: dict[tuple[Connection, int], float] = {}
    with _connections(load, CONNECTIONS) as (connections, selector):
        due, turns = time.perf_counter(), itertools.cycle(connections)
        while due < begin + load.seconds or due_at:
            while due <= min(time.perf_counter(), begin + load.seconds):
                connection = next(turns)
                due_at[connection, connection.call()] = due
                due += 1 / rate
            wait_seconds = max(due - time.perf_counter(), 0.0) if due < begin + load.seconds else None
            for connection, stream, code in _ended(selector, wait_seconds):
                since = due_at.pop((connection, stream))
                if since >= begin:
                    _note(outcome, load, code, time.perf_counter() - since)


@contextmanager
def _connections(load: Load, many: int) -> Iterator[tuple[list[Connection], BaseSelector]]:
    connections = [Connection(load.target, load.method, load.request, TIMEOUT_SECONDS) for _ in range(many)]
    with SelectSelector() as selector:  # epoll waits in whole milliseconds
        for connection in connections:
            selector.register(connection, EVENT_READ)
        try:
            yield connections, selector
        finally:
            for connection in connections:
                connection.close()


def _ended(selector: BaseSelector, seconds: float | None) -> Iterator[tuple[Connection, int, str]]:
    """Calls that have ended, and their status; waits so long for any."""
    for key, _ in selector.select(seconds):
        connection = cast(Connection, key.fileobj)
        for stream, code in connection.receive():
            yield connection, stream, code


def _note(outcome: Outcome, load: Load, code: str, seconds: float) -> None:
    if code == "OK":
        outcome.seconds.append(seconds)
        outcome.images += load.images
    else:
        outcome.refused_seconds.setdefault(code, []).append(seconds)
