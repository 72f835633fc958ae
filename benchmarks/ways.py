"""The servers that are compared, and how each is asked for the classes of images."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.load import METHOD, POST, classify_request, pixels_of
from benchmarks.servers import Running, run_server
from export.manifest import Manifest, read_manifest
from protos.open_inference.v2 import grpc_service_pb2 as oip

ENVIRONMENTS = Path(".venv")
MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"


@dataclass(frozen=True)
class Way:
    """One way to have images classified.

    Attributes:
        name: To print.
        server: Which answers.
        request: The message that asks for so many images.
        method: As `Load.method`.
    """

    name: str
    server: Running
    request: Callable[[int], bytes]
    method: str = METHOD


@contextmanager
def serve_contender(contender: str, python: Path | None = None) -> Iterator[tuple[Running, Manifest]]:
    """Our server as PROVIDER:BUNDLE, if need be by another interpreter, and what it serves."""
    provider, _, bundle = contender.partition(":")
    manifest = read_manifest(Path(bundle))
    pinned = json.dumps({manifest.name: [manifest.version]})
    models = str(Path(bundle).parent.parent)
    arguments = ["--models", models, "--pinned-versions", pinned, "--provider", provider, "--log-format", "json"]
    with run_server(*arguments, python=python or sys.executable) as server:
        yield server, manifest


@contextmanager
def consort(contender: str, bundle: Path, python: Path | None = None) -> Iterator[list[Way]]:
    """Our server as PROVIDER or PROVIDER:BUNDLE, asked for all members and for early stop."""
    named = contender if ":" in contender else f"{contender}:{bundle}"
    with serve_contender(named, python) as (server, manifest):
        yield [
            Way(contender, server, partial(_classify, manifest)),
            Way(f"{contender}, early stop", server, partial(_classify, manifest, early_stop=True)),
        ]


@contextmanager
def naive(bundle: Path) -> Iterator[Way]:
    """What most people write first."""
    with run_server("--bundle", str(bundle), module="benchmarks.naive") as server:
        yield Way("naive", server, partial(_classify, read_manifest(bundle)))


@contextmanager
def mlserver(bundle: Path) -> Iterator[Way]:
    """MLServer, over gRPC."""
    module, python = "benchmarks.rivals.mlserver_ensemble", ENVIRONMENTS / "mlserver/bin/python"
    with run_server(str(bundle), module=module, python=python, ports=()) as server:
        yield Way("mlserver", server, partial(_model_infer, read_manifest(bundle)), MODEL_INFER)


@contextmanager
def pytriton(bundle: Path) -> Iterator[Way]:
    """Triton by PyTriton, over gRPC."""
    module, python = "benchmarks.rivals.pytriton_ensemble", ENVIRONMENTS / "pytriton/bin/python"
    with run_server(str(bundle), module=module, python=python, ports=()) as server:
        yield Way("pytriton", server, partial(_model_infer, read_manifest(bundle)), MODEL_INFER)


@contextmanager
def litserve(bundle: Path) -> Iterator[Way]:
    """LitServe, over HTTP."""
    module, python = "benchmarks.rivals.litserve_ensemble", ENVIRONMENTS / "litserve/bin/python"
    with run_server(str(bundle), module=module, python=python, ports=()) as server:
        yield Way("litserve", server, partial(_json, read_manifest(bundle)), f"{POST}/predict")


RIVALS: dict[str, Callable[[Path], AbstractContextManager[Way]]] = {
    "mlserver": mlserver,
    "litserve": litserve,
    "pytriton": pytriton,
}


def _classify(manifest: Manifest, images: int, *, early_stop: bool = False) -> bytes:
    pixels = pixels_of(images, manifest.input.shape)
    return classify_request(pixels, manifest.name, manifest.version, early_stop=early_stop)


def _model_infer(manifest: Manifest, images: int) -> bytes:
    pixels = pixels_of(images, manifest.input.shape)
    tensor = oip.ModelInferRequest.InferInputTensor(name="pixels", datatype="UINT8", shape=pixels.shape)
    request = oip.ModelInferRequest(model_name="ensemble", inputs=[tensor], raw_input_contents=[pixels.tobytes()])
    return request.SerializeToString()


def _json(manifest: Manifest, images: int) -> bytes:
    pixels = pixels_of(images, manifest.input.shape)
    body = {"pixels": base64.b64encode(pixels.tobytes()).decode(), "shape": pixels.shape}
    return json.dumps(body).encode()
