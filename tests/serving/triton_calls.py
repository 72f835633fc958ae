"""What the tests do with Triton's own client, in an environment that has it: `triton_calls.py NAME TARGET`.

The result goes to standard output as JSON. Nothing here is of Consort.
"""

from __future__ import annotations

import asyncio
import base64
import json
import queue
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.grpc import model_config_pb2, service_pb2
from tritonclient.utils import InferenceServerException

MODEL = "stub"
PIXELS = np.arange(3 * 16, dtype=np.uint8).reshape(3, 1, 4, 4) * 5


def as_input(pixels: npt.NDArray[Any]) -> triton.InferInput:
    """An array under the name of Consort's input."""
    tensor = triton.InferInput("pixels", pixels.shape, triton_type(pixels))
    tensor.set_data_from_numpy(pixels)
    return tensor


def triton_type(pixels: npt.NDArray[Any]) -> str:
    """UINT8, or FP32 for a call that must fail."""
    return "UINT8" if pixels.dtype == np.uint8 else "FP32"


def hexadecimal(result: triton.InferResult, *outputs: str) -> dict[str, str]:
    """The very bytes of outputs."""
    return {name: result.as_numpy(name).tobytes().hex() for name in outputs}


def contract(_: str) -> list[str]:
    """The client's own descriptors, as base64."""
    return [base64.b64encode(file.DESCRIPTOR.serialized_pb).decode() for file in (service_pb2, model_config_pb2)]


def ready(target: str) -> dict[str, bool]:
    """Whether the server, its model, and what it does not have are ready."""
    with triton.InferenceServerClient(target) as client:
        return {
            "live": client.is_server_live(),
            "server": client.is_server_ready(),
            "model": client.is_model_ready(MODEL),
            "version": client.is_model_ready(MODEL, "1"),
            "unknown model": client.is_model_ready("other"),
            "unknown version": client.is_model_ready(MODEL, "7"),
        }


def describe(target: str) -> dict[str, Any]:
    """All that the client can learn of server and model."""
    with triton.InferenceServerClient(target) as client:
        return {
            "server": client.get_server_metadata(as_json=True),
            "metadata": client.get_model_metadata(MODEL, as_json=True),
            "config": client.get_model_config(MODEL, as_json=True)["config"],
        }


def infer(target: str) -> dict[str, Any]:
    """What comes without naming outputs."""
    with triton.InferenceServerClient(target) as client:
        result = client.infer(MODEL, [as_input(PIXELS)], request_id="seven", compression_algorithm="gzip")
        reply = result.get_response()
        return {
            "id": reply.id,
            "version": reply.model_version,
            "outputs": [output.name for output in reply.outputs],
            **hexadecimal(result, "probabilities", "class"),
        }


def ask_for_all(target: str) -> dict[str, str]:
    """Every output of the metadata, with parameters."""
    with triton.InferenceServerClient(target) as client:
        names = [output.name for output in client.get_model_metadata(MODEL).outputs]
        result = client.infer(
            MODEL,
            [as_input(PIXELS)],
            outputs=[triton.InferRequestedOutput(name) for name in names],
            parameters={"max_members": 2, "early_stop": True},
        )
        return hexadecimal(result, *names)


def rank(target: str) -> list[list[str]]:
    """The two top classes of each image, as text."""
    with triton.InferenceServerClient(target) as client:
        output = triton.InferRequestedOutput("probabilities", class_count=2)
        ranked = client.infer(MODEL, [as_input(PIXELS)], outputs=[output]).as_numpy("probabilities")
        return [[text.decode() for text in row] for row in ranked]


def ask_at_once(target: str) -> list[dict[str, str]]:
    """Twenty calls in flight together, each answered to its callback."""
    done: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
    with triton.InferenceServerClient(target) as client:
        for _ in range(20):
            client.async_infer(MODEL, [as_input(PIXELS)], lambda result, error: done.put((result, error)))
        answers = [done.get(timeout=10) for _ in range(20)]
    return [{"error": str(error)} if error else hexadecimal(result, "class") for result, error in answers]


def ask_from_asyncio(target: str) -> dict[str, str]:
    """One call by the client for asyncio."""

    async def ask() -> dict[str, str]:
        async with triton_aio.InferenceServerClient(target) as client:
            return hexadecimal(await client.infer(MODEL, [as_input(PIXELS)]), "class")

    return asyncio.run(ask())


def statistics(target: str) -> dict[str, Any]:
    """What one call leaves behind."""
    with triton.InferenceServerClient(target) as client:
        client.infer(MODEL, [as_input(PIXELS)])
        (one,) = client.get_inference_statistics(MODEL, as_json=True)["model_stats"]
        everything: dict[str, Any] = one
        return everything


def refusals(target: str) -> list[tuple[str, str]]:
    """Calls that must fail: status and message of each."""
    good = [as_input(PIXELS)]
    floats = [as_input(PIXELS.astype(np.float32))]
    with triton.InferenceServerClient(target) as client:
        calls = (
            lambda: client.infer("other", good),
            lambda: client.infer(MODEL, good, model_version="latest"),
            lambda: client.infer(MODEL, floats),
            lambda: client.infer(MODEL, good, sequence_id=5, sequence_start=True),
            lambda: client.infer(MODEL, good, timeout=1000),
            lambda: client.infer(MODEL, good, priority=1),
            lambda: client.infer(MODEL, good, outputs=[triton.InferRequestedOutput("logits")]),
            client.get_model_repository_index,
        )
        return [_refused(call) for call in calls]


def control(target: str) -> dict[str, Any]:
    """Unload a model, load it again, and fail twice."""
    with triton.InferenceServerClient(target) as client:

        def index() -> Any:
            return client.get_model_repository_index(as_json=True)["models"]

        at_first = index()
        client.unload_model(MODEL)
        return {
            "at first": at_first,
            "unloaded": index(),
            "ready without": client.is_model_ready(MODEL),
            "load": _refused(lambda: client.load_model(MODEL)),
            "ready again": client.is_model_ready(MODEL),
            "unknown": _refused(lambda: client.load_model("other")),
            "configured": _refused(lambda: client.load_model(MODEL, config="{}")),
        }


def _refused(call: Any) -> tuple[str, str]:
    try:
        call()
    except InferenceServerException as error:
        return error.status(), error.message()
    return "OK", ""


CALLS = (
    contract,
    ready,
    describe,
    infer,
    ask_for_all,
    rank,
    ask_at_once,
    ask_from_asyncio,
    statistics,
    refusals,
    control,
)


if __name__ == "__main__":
    wanted, server = sys.argv[1:]
    print(json.dumps({call.__name__: call for call in CALLS}[wanted](server)))
