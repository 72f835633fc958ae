"""What the page may ask: each question is one request, answered by the server or by a look into a bundle."""

from __future__ import annotations

import base64
import time

import grpc
import numpy as np
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from explorer import replies
from explorer.errors import InvalidRequest, NothingServed, NotInspected
from explorer.inspection import Excited, Inspection, pictures_of
from explorer.limits import read_body
from explorer.metrics import fetch_metrics, summarize_metrics
from explorer.network import Bundles, Network
from explorer.preparation import Preparation, prepare
from explorer.settings import ExplorerSettings
from imaging.files import Pixels
from protos.consort.v1 import classifier_pb2 as pb
from serving.client import CallError, Client

REPORT_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; sandbox"
"""A report has its pictures and its style inside, and no script."""


class Questions:
    """Answers requests; holds the connection to the server and the networks that were opened."""

    def __init__(self, settings: ExplorerSettings) -> None:
        self._settings = settings
        self._client = Client(settings.target, settings.timeout_seconds)
        self._bundles = Bundles(settings.models)
        self._inspection = Inspection(settings.run)

    def close(self) -> None:
        """Give the connection back."""
        self._client.close()

    async def page(self, _: Request) -> Response:
        """What this explorer offers besides the server."""
        settings = self._settings
        examples = sorted(file.name for file in settings.examples.glob("*.png")) if settings.examples else []
        return JSONResponse(
            {
                "examples": examples,
                "report": settings.report is not None,
                "target": settings.target,
                "most_images": settings.max_call_images,
            }
        )

    async def models(self, _: Request) -> Response:
        """All versions of all models that the server has, and the one that answers where none is named."""
        return await run_in_threadpool(self._list_models)

    async def model(self, request: Request) -> Response:
        """One model, described: `name`, `version`."""
        name, version = _model_of(request)
        return JSONResponse(replies.model(await run_in_threadpool(self._client.get_model, name, version)))

    async def classify(self, request: Request) -> Response:
        """One picture, prepared and answered: `name`, `version`, `centre`, `early_stop`; the body is its file."""
        file = await read_body(request, self._settings.max_upload_bytes)
        return await run_in_threadpool(self._classify, request, file)

    async def batch(self, request: Request) -> Response:
        """Many inputs in one call: `name`, `version`; the body is their pixels, one byte each."""
        body = await read_body(request, self._settings.max_upload_bytes)
        return await run_in_threadpool(self._batch, request, body)

    async def layers(self, request: Request) -> Response:
        """The layers of a member: `name`, `version`, `member`."""
        return await run_in_threadpool(self._layers, request)

    async def activations(self, request: Request) -> Response:
        """What a layer gives for an input: `name`, `version`, `member`, `layer`; the body is its pixels."""
        body = await read_body(request, self._settings.max_upload_bytes)
        return await run_in_threadpool(self._activations, request, body)

    async def gradients(self, request: Request) -> Response:
        """How a value of a layer changes with the input: as `activations`, and `unit`, its place in the layer."""
        body = await read_body(request, self._settings.max_upload_bytes)
        return await run_in_threadpool(self._gradients, request, body)

    async def values(self, request: Request) -> Response:
        """One value of a layer for many inputs: as `gradients`; the body is the pixels of all of them."""
        body = await read_body(request, self._settings.max_upload_bytes)
        return await run_in_threadpool(self._values, request, body)

    async def excited(self, request: Request) -> Response:
        """What excites a unit most: `name`, `version`, `member`, `layer`, `channel`."""
        return await run_in_threadpool(self._excited, request)

    async def pictures(self, request: Request) -> Response:
        """The pictures of what excites a unit most, side by side: as `excited`."""
        return await run_in_threadpool(self._pictures, request)

    async def metrics(self, _: Request) -> Response:
        """The server's own figures."""
        settings = self._settings
        text = await run_in_threadpool(fetch_metrics, settings.metrics_url, settings.timeout_seconds)
        return JSONResponse(summarize_metrics(text))

    async def report(self, _: Request) -> Response:
        """The report of the run that the settings name."""
        if self._settings.report is None:
            raise InvalidRequest("No run was named: start the explorer with --run.")
        return FileResponse(self._settings.report, headers={"Content-Security-Policy": REPORT_POLICY})

    def _list_models(self) -> JSONResponse:
        listed = self._client.list_models()
        if not listed:
            raise NothingServed("The server has no model loaded.")
        try:
            default = self._client.get_model().model
        except CallError as error:
            if error.code != grpc.StatusCode.NOT_FOUND:  # the server has several models and no default
                raise
            default = listed[0]
        return JSONResponse(
            {"models": [replies.summary(model) for model in listed], "default": replies.summary(default)}
        )

    def _classify(self, request: Request, file: bytes) -> JSONResponse:
        name, version = _model_of(request)
        shape = _shape(self._client.get_model(name, version))
        started = time.perf_counter()
        preparation = Preparation(shape, _switch(request, "centre"), self._settings.max_image_pixels)
        pixels = prepare(file, preparation)
        prepared = time.perf_counter()
        result = self._client.classify(
            pixels[np.newaxis],
            model=name,
            version=version,
            members=True,
            early_stop=_switch(request, "early_stop"),
        )
        called = time.perf_counter()
        return JSONResponse(
            {
                "model": {"name": result.model_name, "version": result.model_version},
                "input": {"shape": list(shape), "pixels": base64.b64encode(pixels.tobytes()).decode()},
                "verdict": replies.verdict(result.classifications[0]),
                "timing": {
                    "prepare": prepared - started,
                    "call": called - prepared,
                    "server": replies.timing(result.timing),
                },
            }
        )

    def _batch(self, request: Request, body: bytes) -> JSONResponse:
        name, version = _model_of(request)
        shape = _shape(self._client.get_model(name, version))
        pixels = _pixels(body, shape, self._settings.max_call_images)
        result = self._client.classify(pixels, model=name, version=version, members=True)
        return JSONResponse(
            {
                "model": {"name": result.model_name, "version": result.model_version},
                "verdicts": [replies.verdict(found) for found in result.classifications],
                "timing": {"server": replies.timing(result.timing)},
            }
        )

    def _layers(self, request: Request) -> JSONResponse:
        network = self._network(request)
        return JSONResponse(
            {
                "layers": [replies.layer(layer) for layer in network.layers],
                "filters": None if network.filters is None else replies.array(network.filters),
            }
        )

    def _activations(self, request: Request, body: bytes) -> JSONResponse:
        network = self._network(request)
        index = _number(request, "layer", most=len(network.layers) - 1)
        pixels = _pixels(body, network.shape, most=1)
        values, probabilities = network.activations(pixels[0], network.layers[index])
        return JSONResponse({"values": replies.array(values), "probabilities": probabilities.tolist()})

    def _gradients(self, request: Request, body: bytes) -> JSONResponse:
        network = self._network(request)
        index, unit = _unit_of(request, network)
        found = network.gradients(_pixels(body, network.shape, most=1)[0], index, unit)
        return JSONResponse({"plain": replies.array(found.plain), "guided": replies.array(found.guided)})

    def _values(self, request: Request, body: bytes) -> JSONResponse:
        network = self._network(request)
        index, unit = _unit_of(request, network)
        pixels = _pixels(body, network.shape, self._settings.max_call_images)
        return JSONResponse({"values": network.values(pixels, network.layers[index], unit).tolist()})

    def _excited(self, request: Request) -> JSONResponse:
        try:
            return JSONResponse({"found": replies.excited(self._find_excited(request))})
        except NotInspected as error:  # an answer like another to the page, which shows it in the pictures' place
            return JSONResponse({"found": None, "why": str(error)})

    def _pictures(self, request: Request) -> Response:
        return Response(pictures_of(self._find_excited(request)), media_type="image/png")

    def _find_excited(self, request: Request) -> Excited:
        network = self._network(request)
        layer = network.layers[_number(request, "layer", most=len(network.layers) - 1)]
        channel = _number(request, "channel", most=layer.shape[0] - 1)
        return self._inspection.find(network, layer, channel)

    def _network(self, request: Request) -> Network:
        name, version = _model_of(request)
        return self._bundles.network(name, version, _number(request, "member", most=10_000))


def _model_of(request: Request) -> tuple[str, int]:
    return request.query_params.get("name", ""), _number(request, "version", most=2**31 - 1)


def _unit_of(request: Request, network: Network) -> tuple[int, int]:
    """Number of a layer, and of one of its values."""
    index = _number(request, "layer", most=len(network.layers) - 1)
    return index, _number(request, "unit", most=int(np.prod(network.layers[index].shape)) - 1)


def _number(request: Request, name: str, most: int) -> int:
    """A whole number of the query; 0 where it is not given."""
    text = request.query_params.get(name, "0")
    if not (text.isascii() and text.isdecimal() and len(text) <= 10 and int(text) <= most):
        raise InvalidRequest(f"{name} is {text[:40]!r}, expected a whole number from 0 to {most}")
    return int(text)


def _switch(request: Request, name: str) -> bool:
    return bool(_number(request, name, most=1))


def _shape(model: pb.GetModelResponse) -> tuple[int, int, int]:
    return model.channels, model.height, model.width


def _pixels(body: bytes, shape: tuple[int, int, int], most: int) -> Pixels:
    """Inputs one after the other: uint8 (inputs, channels, height, width)."""
    each = int(np.prod(shape))
    if len(body) % each or not 1 <= len(body) // each <= most:
        raise InvalidRequest(f"{len(body)} bytes came, expected 1 to {most} inputs of {each} bytes each")
    return np.frombuffer(body, np.uint8).reshape(-1, *shape)
