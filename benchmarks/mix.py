"""A mixed load at an even rate: calls of every kind that a server sees, wrong and impatient ones among them.

Each kind names the gRPC statuses that it may end with; any other is unexpected.
"""

from __future__ import annotations

import io
import random
import threading
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
import numpy as np
from PIL import Image

from benchmarks.load import METHOD, classify_request, pixels_of
from protos.consort.v1 import classifier_pb2 as pb
from protos.open_inference.v2 import grpc_service_pb2 as open_inference

TIMEOUT_SECONDS = 30.0
CANCEL_SECONDS = 0.002
MODEL, SHAPE = "mnist", (1, 28, 28)


@dataclass(frozen=True)
class Kind:
    """One kind of call.

    Attributes:
        name: What it is called in the tally.
        weight: How often it comes, beside the others.
        method: In full.
        request: Its bytes.
        codes: Statuses that it may end with.
        timeout_seconds: Its deadline.
        is_cancelled: Whether its caller loses patience at once.
    """

    name: str
    weight: int
    method: str
    request: bytes
    codes: frozenset[str]
    timeout_seconds: float = TIMEOUT_SECONDS
    is_cancelled: bool = False


@dataclass(frozen=True)
class Ended:
    """One call that has ended: of which kind, when it was due (seconds since the load began), how long it took."""

    kind: str
    due: float
    seconds: float
    code: str


def make_kinds() -> tuple[Kind, ...]:
    """The kinds of the mix."""
    ok, one = frozenset({"OK"}), classify_request(pixels_of(1, SHAPE), MODEL)
    many = classify_request(pixels_of(32, SHAPE), MODEL, early_stop=True)
    wrong = classify_request(pixels_of(1, (1, 28, 27)), MODEL)
    return (
        Kind("one image", 50, METHOD, one, ok),
        Kind("32 images, early stop", 5, METHOD, many, ok),
        Kind("4 PNG files", 15, METHOD, _files_request(4), ok),
        Kind("Open Inference", 10, "/inference.GRPCInferenceService/ModelInfer", _infer_request(), ok),
        Kind("list", 5, "/consort.v1.Classifier/ListModels", b"", ok),
        Kind("wrong shape", 5, METHOD, wrong, frozenset({"INVALID_ARGUMENT"})),
        Kind("junk bytes", 2, METHOD, b"\xff" * 50, frozenset({"INTERNAL", "INVALID_ARGUMENT"})),
        Kind("late", 4, METHOD, one, frozenset({"OK", "DEADLINE_EXCEEDED"}), timeout_seconds=0.003),
        Kind("cancelled", 4, METHOD, many, frozenset({"OK", "CANCELLED"}), is_cancelled=True),
    )


def run_mix(target: str, calls_per_second: float, seconds: float, seed: int) -> list[Ended]:
    """Send the mix at even intervals, whether answered or not, and wait for the last answer."""
    kinds, chance = make_kinds(), random.Random(seed)  # noqa: S311  nothing secret hangs on it
    weights = [kind.weight for kind in kinds]
    ended: list[Ended] = []
    all_back = threading.Semaphore(0)

    def note(call: Any, kind: Kind, due: float) -> None:
        ended.append(Ended(kind.name, due - began, time.perf_counter() - due, call.code().name))
        all_back.release()

    with grpc.insecure_channel(target) as channel:
        methods: dict[str, Any] = {kind.method: channel.unary_unary(kind.method) for kind in kinds}
        began = due = time.perf_counter()
        sent = 0
        while due < began + seconds:
            time.sleep(max(0.0, due - time.perf_counter()))
            (kind,) = chance.choices(kinds, weights)
            call = methods[kind.method].future(kind.request, timeout=kind.timeout_seconds)
            if kind.is_cancelled:
                threading.Timer(CANCEL_SECONDS, call.cancel).start()
            call.add_done_callback(partial(note, kind=kind, due=due))
            due, sent = due + 1 / calls_per_second, sent + 1
        for _ in range(sent):
            all_back.acquire()
    return ended


def _files_request(files: int) -> bytes:
    encoded = pb.EncodedImages(files=[_png(pixels) for pixels in pixels_of(files, (64, 64))])
    return pb.ClassifyRequest(encoded=encoded, model_name=MODEL).SerializeToString()


def _png(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _infer_request() -> bytes:
    request = open_inference.ModelInferRequest(model_name=MODEL)
    request.inputs.add(name="pixels", datatype="UINT8", shape=(2, *SHAPE))
    request.raw_input_contents.append(pixels_of(2, SHAPE).tobytes())
    return request.SerializeToString()
