"""What the page gets: answers of the server as JSON, and every error as a kind and a sentence."""

from __future__ import annotations

import base64
from typing import Any, cast

import grpc
import numpy as np
import numpy.typing as npt
from starlette.requests import Request
from starlette.responses import JSONResponse

from explorer.errors import (
    BundleUnusable,
    InvalidRequest,
    MetricsUnreadable,
    NoGradient,
    NothingServed,
    NotInspected,
    PictureRefused,
    RequestError,
    RequestTooLarge,
    TooManyRequests,
)
from explorer.inspection import Excited
from explorer.layers import Layer
from protos.consort.v1 import classifier_pb2 as pb
from serving.client import CallError, Classification, Timing

REQUEST_FAILURES: dict[type[RequestError], tuple[int, str]] = {
    InvalidRequest: (400, "request"),
    NotInspected: (404, "request"),
    BundleUnusable: (409, "request"),
    RequestTooLarge: (413, "request"),
    PictureRefused: (422, "request"),
    NoGradient: (422, "request"),
    TooManyRequests: (429, "busy"),
    MetricsUnreadable: (502, "request"),
    NothingServed: (503, "empty"),
}
"""HTTP status and kind of each; the page asks again later, unless the kind is "request" or "refused"."""
CALL_FAILURES: dict[grpc.StatusCode, tuple[int, str, str]] = {
    grpc.StatusCode.UNAVAILABLE: (503, "down", "The server does not answer."),
    grpc.StatusCode.CANCELLED: (503, "down", "The server ended the call."),
    grpc.StatusCode.DEADLINE_EXCEEDED: (504, "slow", "The server took too long to answer."),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (503, "busy", "The server has more to do than it takes on."),
    grpc.StatusCode.NOT_FOUND: (404, "gone", "The server no longer has this model."),
    grpc.StatusCode.INVALID_ARGUMENT: (400, "refused", "The server refused the request."),
    grpc.StatusCode.UNAUTHENTICATED: (502, "refused", "The server asks for a token, and the explorer has none."),
    grpc.StatusCode.PERMISSION_DENIED: (502, "refused", "The server does not let the explorer ask this."),
}
"""HTTP status, kind and sentence for what a call can end with; anything else is `OTHER_FAILURE`."""
OTHER_FAILURE = (502, "failed", "The call to the server failed.")


def request_error(_: Request, error: Exception) -> JSONResponse:
    """A refused request."""
    status, kind = next(REQUEST_FAILURES[one] for one in type(error).mro() if one in REQUEST_FAILURES)
    return JSONResponse({"kind": kind, "message": str(error)}, status)


def call_error(_: Request, error: Exception) -> JSONResponse:
    """A failed call to the server, with the server's own words where they speak of the request."""
    failure = cast(CallError, error)  # as it is registered
    status, kind, sentence = CALL_FAILURES.get(failure.code, OTHER_FAILURE)
    if kind in ("gone", "refused"):
        sentence = f"{sentence} It says: {failure.message}"
    return JSONResponse({"kind": kind, "message": sentence}, status)


def verdict(found: Classification) -> dict[str, Any]:
    """What the ensemble says of one image."""
    return {
        "probabilities": found.probabilities.tolist(),
        "label": found.label,
        "probability": found.probability,
        "entropy": found.entropy,
        "mutual_information": found.mutual_information,
        "agreement": found.agreement,
        "members_run": found.members_run,
        "members": [] if found.members is None else found.members.tolist(),
    }


def timing(seconds: Timing) -> dict[str, float]:
    """Where the call's time went inside the server, in seconds."""
    return {
        "decode": seconds.decode_seconds,
        "queue": seconds.queue_seconds,
        "inference": seconds.inference_seconds,
        "total": seconds.total_seconds,
    }


def summary(model: pb.ModelSummary) -> dict[str, Any]:
    """Name, version, and whether it answers where no version is named."""
    return {"name": model.name, "version": model.version, "default": model.default_version}


def model(described: pb.GetModelResponse) -> dict[str, Any]:
    """All that the page shows of a model."""
    return {
        **summary(described.model),
        "labels": list(described.class_labels),
        "shape": [described.channels, described.height, described.width],
        "members": [
            {
                "architecture": member.architecture,
                "seed": member.seed,
                "parameters": member.parameters,
                "multiply_adds": member.multiply_adds,
                "held_out_accuracy": member.held_out_accuracy,
            }
            for member in described.members
        ],
        "temperature": described.temperature,
        "held_out": _figures(described.held_out),
        "test": _figures(described.test),
        "provider": described.provider,
    }


def layer(described: Layer) -> dict[str, Any]:
    """What a layer is, without its values."""
    return {
        "title": described.title,
        "kind": described.kind,
        "operator": described.operator,
        "shape": list(described.shape),
        "field": [described.field.height, described.field.width],
        "kernel": list(described.kernel),
        "padding": described.padding,
    }


def excited(found: Excited) -> dict[str, Any]:
    """What excites a unit, without the pictures."""
    return {
        "title": found.title,
        "unit": found.unit,
        "labels": found.labels,
        "values": found.values,
        "maximised": found.maximised,
        "tile": list(found.index.tile),
        "data": found.index.data,
        "images": found.index.images,
        "selection": found.index.selection,
        "regularisation": found.index.regularisation,
    }


def array(values: npt.NDArray[np.float32]) -> dict[str, Any]:
    """Numbers as float32, little-endian, in C order, as base64."""
    return {
        "shape": list(values.shape),
        "float32": base64.b64encode(values.astype("<f4").tobytes()).decode(),
    }


def _figures(figures: pb.Figures) -> dict[str, Any]:
    return {
        "count": figures.count,
        "accuracy": figures.accuracy,
        "interval": [figures.accuracy_low, figures.accuracy_high],
        "nll": figures.nll,
        "ece": figures.ece,
    }
