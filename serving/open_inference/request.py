"""ModelInferRequest in; pixels, and what is asked of them, out."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from export.manifest import INPUT_NAME, Input, Manifest
from protos.open_inference.v2 import grpc_service_pb2 as pb
from serving.batch import Effort
from serving.codec import MOST_DIMENSIONS, check_count, decode_effort, format_shape
from serving.ensemble import Pixels
from serving.errors import MAX_QUOTED, InvalidRequest, quote
from serving.labels import LABEL_PATTERN
from serving.open_inference.outputs import DEFAULT_OUTPUTS, OUTPUTS, AskedOutput
from serving.settings import ServerSettings

VERSION = re.compile(r"[1-9][0-9]{0,9}")
LABEL = re.compile(LABEL_PATTERN)
MOST_NAMED = 4
"""Inputs that a message names, of a request that has too many."""
INPUT_DATATYPE = "UINT8"
TYPED_CONTENTS = "uint_contents"
"""The field of InferTensorContents that holds UINT8."""

BOOL, INT64 = "bool_param", "int64_param"
REQUEST_PARAMETERS = {
    "early_stop": BOOL,
    "max_members": INT64,
    "triton_enable_empty_final_response": BOOL,
    "binary_data_output": BOOL,
}
"""The last two say nothing here. One is of streams of replies, and Triton's C++ client always sends it; the other
is of replies over REST, and KServe's client sends it over gRPC too."""
INPUT_PARAMETERS = {"binary_data_size": INT64}
"""KServe's client sends it with every raw tensor."""
OUTPUT_PARAMETERS = {"binary_data": BOOL}
"""Says of one output what `binary_data_output` says of all."""
CLASSIFICATION = {"classification": INT64}
"""Of the output `probabilities` alone."""


@dataclass(frozen=True, eq=False)
class Inference:
    """What a request asks.

    Attributes:
        pixels: uint8 (images, channels, height, width).
        effort: How many members are asked.
        outputs: What the reply holds, in this order.
    """

    pixels: Pixels
    effort: Effort
    outputs: tuple[AskedOutput, ...]


def decode_version(version: str) -> tuple[int, str]:
    """A model's version, 0 for none in particular, and its label, empty for none.

    Raises:
        InvalidRequest: It is neither a positive integer nor a label.
    """
    if not version or VERSION.fullmatch(version):
        return int(version or 0), ""
    if LABEL.fullmatch(version):
        return 0, version
    raise InvalidRequest(
        f"model version {quote(version)} is neither a positive integer nor a label; leave it empty for the default"
    )


def require_few_parts(request: pb.ModelInferRequest) -> None:
    """Refuse what has more parts than any request may have, before anything looks at them one by one.

    Raises:
        InvalidRequest: It is so.
    """
    if len(request.inputs) != 1:
        names = ", ".join(tensor.name[:MAX_QUOTED] for tensor in request.inputs[:MOST_NAMED]) or "(none)"
        more = ", ..." if len(request.inputs) > MOST_NAMED else ""
        raise InvalidRequest(f"the request has inputs {names}{more}; expected one, {INPUT_NAME}")
    if (outputs := len(request.outputs)) > len(OUTPUTS):
        raise InvalidRequest(f"the request names {outputs} outputs; there are {', '.join(OUTPUTS)}")
    if (raw := len(request.raw_input_contents)) > 1:
        raise InvalidRequest(f"the request has {raw} raw_input_contents, expected one at most")


def count_bytes(request: pb.ModelInferRequest) -> int:
    """How much is to decode, about, of a request of few parts: all but names and parameters."""
    raw = len(request.raw_input_contents[0]) if request.raw_input_contents else 0
    return raw + len(request.inputs[0].contents.uint_contents) * 4


def decode_request(request: pb.ModelInferRequest, manifest: Manifest, settings: ServerSettings) -> Inference:
    """Check everything that a request says.

    Raises:
        InvalidRequest: Something in it is not as the model takes it, or cannot be honoured.
    """
    parameters = _decode_parameters("the request", request.parameters, REQUEST_PARAMETERS)
    effort = decode_effort(parameters.get("max_members", 0), bool(parameters.get("early_stop")), manifest)
    return Inference(decode_pixels(request, manifest.input, settings), effort, decode_outputs(request))


def decode_pixels(request: pb.ModelInferRequest, expected: Input, settings: ServerSettings) -> Pixels:
    """The one input tensor, uint8 (images, channels, height, width).

    Raises:
        InvalidRequest: There is another, or name, type, shape, parameters or values are not what the model takes.
    """
    (tensor,) = request.inputs
    if tensor.name != INPUT_NAME:
        raise InvalidRequest(f"the request has input {quote(tensor.name)}, expected {INPUT_NAME}")
    if tensor.datatype != INPUT_DATATYPE:
        raise InvalidRequest(
            f"{INPUT_NAME} has datatype {tensor.datatype[:MAX_QUOTED] or '(none)'}, expected {INPUT_DATATYPE}"
        )
    shape = tuple(tensor.shape[:MOST_DIMENSIONS])
    if len(shape) != 4 or shape[1:] != expected.shape:
        raise InvalidRequest(
            f"{INPUT_NAME} has shape {format_shape(shape)}, expected (images)x{format_shape(expected.shape)}"
        )
    check_count(shape[0], settings.max_call_images)
    _check_binary_size(request, tensor)
    return _decode_values(request, tensor, shape).reshape(shape)


def decode_outputs(request: pb.ModelInferRequest) -> tuple[AskedOutput, ...]:
    """What the reply is to hold.

    Raises:
        InvalidRequest: There is no such output, it is named twice, or its parameters are not understood.
    """
    for name, times in Counter(output.name for output in request.outputs).items():
        if times > 1:
            raise InvalidRequest(f"output {quote(name)} is named {times} times, expected once")
    return tuple(_decode_output(output) for output in request.outputs) or DEFAULT_OUTPUTS


def _decode_output(asked: pb.ModelInferRequest.InferRequestedOutputTensor) -> AskedOutput:
    if asked.name not in OUTPUTS:
        raise InvalidRequest(f"there is no output {quote(asked.name)}; there are {', '.join(OUTPUTS)}")
    output = OUTPUTS[asked.name]
    known = (CLASSIFICATION if output.can_be_ranked else {}) | OUTPUT_PARAMETERS
    parameters = _decode_parameters(f"output {output.name}", asked.parameters, known)
    top_classes = parameters.get("classification")
    if top_classes is not None and top_classes < 1:
        raise InvalidRequest(f"classification of output {output.name} is {top_classes}, expected 1 or more")
    return AskedOutput(output, top_classes)


def _decode_values(
    request: pb.ModelInferRequest, tensor: pb.ModelInferRequest.InferInputTensor, shape: tuple[int, ...]
) -> npt.NDArray[np.uint8]:
    """The values, one after the other, wherever in the request they are."""
    typed = [field.name for field, _ in tensor.contents.ListFields()]
    came = [*typed, *(["raw_input_contents"] if request.raw_input_contents else [])]
    match came:
        case ["raw_input_contents"]:
            found = len(request.raw_input_contents[0])
        case [only] if only == TYPED_CONTENTS:
            found = len(tensor.contents.uint_contents)
        case _:
            raise InvalidRequest(
                f"values of {INPUT_NAME} came as {' and '.join(came) or 'nothing'}; expected {TYPED_CONTENTS}, or "
                "one raw_input_contents"
            )
    if found != (expected := math.prod(shape)):
        raise InvalidRequest(
            f"{came[0]} has {found} values, expected {expected} for {format_shape(shape)} {INPUT_DATATYPE}"
        )
    # Only now: as numbers, values that came as a list take many times the memory.
    if came[0] == TYPED_CONTENTS:
        return _decode_typed(tensor.contents)
    return np.frombuffer(request.raw_input_contents[0], np.uint8)


def _decode_typed(contents: pb.InferTensorContents) -> npt.NDArray[np.uint8]:
    values = np.array(contents.uint_contents, np.uint32)
    if values.max() > 255:
        raise InvalidRequest(f"{TYPED_CONTENTS} has values up to {values.max()}, expected 0..255")
    return values.astype(np.uint8)


def _check_binary_size(request: pb.ModelInferRequest, tensor: pb.ModelInferRequest.InferInputTensor) -> None:
    """Hold the size that a client states against what came; other parameters are not understood."""
    parameters = _decode_parameters(f"input {INPUT_NAME}", tensor.parameters, INPUT_PARAMETERS)
    stated = parameters.get("binary_data_size")
    came = sum(map(len, request.raw_input_contents))
    if stated is not None and stated != came:
        raise InvalidRequest(f"binary_data_size of input {INPUT_NAME} is {stated}, but {came} bytes came")


def _decode_parameters(
    owner: str, parameters: Mapping[str, pb.InferParameter], known: Mapping[str, str]
) -> dict[str, int]:
    """The values of parameters, each of the kind that `known` says; a bool counts as int.

    Raises:
        InvalidRequest: One is not known, of another kind, or negative.
    """
    values = {}
    for name, parameter in parameters.items():
        if name not in known:
            understood = ", ".join(f"{one} ({kind})" for one, kind in known.items()) or "none"
            raise InvalidRequest(
                f"{owner} has parameter {quote(name)}, which is not understood; understood: {understood}"
            )
        kind = parameter.WhichOneof("parameter_choice")
        if kind != known[name]:
            raise InvalidRequest(
                f"parameter {quote(name)} of {owner} is {kind or 'empty'}, expected {known[name]}"
            )
        values[name] = int(getattr(parameter, kind))
        if values[name] < 0:
            raise InvalidRequest(f"parameter {quote(name)} of {owner} is {values[name]}, expected 0 or more")
    return values
