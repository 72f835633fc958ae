"""Load on a server, from processes of its own: callers that wait for each answer, or arrivals at a fixed rate.

Callers in a closed loop slow down with the server and so hide its queue; arrivals at a fixed rate do not. Requests
are the same bytes each time and replies are not parsed, so that the callers take little of what they measure.
"""

from __future__ import annotations

import http.client
import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt

from protos.consort.v1 import classifier_pb2 as pb

METHOD = "/consort.v1.Classifier/Classify"
POST = "POST "
WARM_UP_SECONDS = 0.5
TIMEOUT_SECONDS = 30.0


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
    """A serialized request for raw pixels; version 0 is the latest."""
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
    if load.rate is None:
        with ThreadPoolExecutor(load.callers) as threads:
            list(threads.map(lambda _: _closed_loop(load, begin, outcome), range(load.callers)))
    else:
        _open_loop(load, load.rate, begin, outcome)
    outcome.elapsed = time.perf_counter() - begin
    return outcome


def _closed_loop(load: Load, begin: float, outcome: Outcome) -> None:
    with _asking(load) as ask:
        while (started := time.perf_counter()) < begin + load.seconds:
            code = ask()
            if started >= begin:
                _note(outcome, load, code, time.perf_counter() - started)


@contextmanager
def _asking(load: Load) -> Iterator[Callable[[], str]]:
    """A connection, as a function that calls once and gives the status: OK, or another of gRPC's or HTTP's."""
    if load.method.startswith(POST):
        connection = http.client.HTTPConnection(load.target, timeout=TIMEOUT_SECONDS)
        with closing(connection):
            yield partial(_post, connection, load)
    else:
        with _connect(load.target) as channel:
            yield partial(_call, channel.unary_unary(load.method), load)


def _call(method: Any, load: Load) -> str:
    try:
        method(load.request, timeout=TIMEOUT_SECONDS)
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


def _post(connection: http.client.HTTPConnection, load: Load) -> str:
    connection.request("POST", load.method.removeprefix(POST), load.request, {"Content-Type": "application/json"})
    response = connection.getresponse()
    response.read()
    return "OK" if response.status == http.HTTPStatus.OK else str(response.status)


def _open_loop(load: Load, rate: float, begin: float, outcome: Outcome) -> None:
    """Calls are due at even intervals; a late one is sent at once, and its delay counts."""
    lock, all_back = threading.Lock(), threading.Semaphore(0)
    with _connect(load.target) as channel:
        classify: Any = channel.unary_unary(load.method)

        def note(call: Any, due: float) -> None:
            with lock:
                if due >= begin:
                    _note(outcome, load, call.code().name, time.perf_counter() - due)
            all_back.release()

        due, sent = time.perf_counter(), 0
        while due < begin + load.seconds:
            time.sleep(max(0.0, due - time.perf_counter()))
            call = classify.future(load.request, timeout=TIMEOUT_SECONDS)
            call.add_done_callback(partial(note, due=due))
            due, sent = due + 1 / rate, sent + 1
        for _ in range(sent):
            all_back.acquire()


def _note(outcome: Outcome, load: Load, code: str, seconds: float) -> None:
    if code == "OK":
        outcome.seconds.append(seconds)
        outcome.images += load.images
    else:
        outcome.refused_seconds.setdefault(code, []).append(seconds)


def _connect(target: str) -> grpc.Channel:
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
    return grpc.insecure_channel(target, options=options)
