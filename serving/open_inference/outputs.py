"""The tensors that a model gives: what they are, and a verdict as tensors."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from export.manifest import OUTPUT_NAME, Manifest
from protos.open_inference.v2 import grpc_service_pb2 as pb
from serving.codec import count_labels
from serving.verdict import Floats, Verdict

DTYPES: dict[str, np.dtype[Any]] = {"FP32": np.dtype("<f4"), "INT64": np.dtype("<i8")}
"""Of the outputs' datatypes, as they go over the wire."""


@dataclass(frozen=True)
class Output:
    """A tensor that can be asked for.

    Attributes:
        name: Of the tensor.
        datatype: A key of DTYPES.
        axes: Of one image.
        values: Of a verdict, (images, *axes).
        can_be_ranked: Whether it may be asked for as classes, best first.
    """

    name: str
    datatype: str
    axes: Callable[[Manifest], tuple[int, ...]]
    values: Callable[[Verdict, Manifest], npt.NDArray[Any]]
    can_be_ranked: bool = False


@dataclass(frozen=True)
class AskedOutput:
    """An output as a request asks for it: as it is, or, where a number of top classes is given, as those."""

    output: Output
    top_classes: int | None = None


def _pad_members(verdict: Verdict, manifest: Manifest) -> Floats:
    """Each member's probabilities, float32 (images, members, classes); zeros where it did not run."""
    members, images, classes = verdict.members.shape
    padded = np.zeros((images, len(manifest.members), classes), np.float32)
    padded[:, :members] = verdict.members.transpose(1, 0, 2)  # to (images, members, classes)
    return padded


def _one(_: Manifest) -> tuple[int, ...]:
    return ()


def _one_a_class(manifest: Manifest) -> tuple[int, ...]:
    return (len(manifest.class_labels),)


def _one_a_member_and_class(manifest: Manifest) -> tuple[int, ...]:
    return len(manifest.members), len(manifest.class_labels)


OUTPUTS = {
    output.name: output
    for output in (
        Output(OUTPUT_NAME, "FP32", _one_a_class, lambda verdict, _: verdict.probabilities, can_be_ranked=True),
        Output("class", "INT64", _one, lambda verdict, _: verdict.ranking[:, 0]),
        Output("members", "FP32", _one_a_member_and_class, _pad_members),
        Output("members_run", "INT64", _one, lambda verdict, _: verdict.members_run),
        Output("entropy", "FP32", _one, lambda verdict, _: verdict.entropy),
        Output("mutual_information", "FP32", _one, lambda verdict, _: verdict.mutual_information),
        Output("agreement", "FP32", _one, lambda verdict, _: verdict.agreement),
    )
}
DEFAULT_OUTPUTS = (AskedOutput(OUTPUTS[OUTPUT_NAME]), AskedOutput(OUTPUTS["class"]))
"""What a request that names none gets."""


def count_answer(outputs: Iterable[AskedOutput], verdict: Verdict) -> int:
    """How many bytes are to be encoded, about: all members' may be asked for."""
    ranked = (asked.top_classes for asked in outputs if asked.top_classes is not None)
    return verdict.members.nbytes + sum(count_labels(verdict, top_classes) for top_classes in ranked)


def encode_answer(
    request_id: str, outputs: Iterable[AskedOutput], manifest: Manifest, verdict: Verdict
) -> pb.ModelInferResponse:
    """The reply: one tensor an output, its values beside it as raw bytes."""
    response = pb.ModelInferResponse(model_name=manifest.name, model_version=str(manifest.version), id=request_id)
    for asked in outputs:
        if asked.top_classes is None:
            datatype = asked.output.datatype
            values = asked.output.values(verdict, manifest).astype(DTYPES[datatype], copy=False)
            shape, content = values.shape, values.tobytes()
        else:
            datatype = "BYTES"
            shape, content = _encode_ranking(verdict, manifest.class_labels, asked.top_classes)
        response.outputs.add(name=asked.output.name, datatype=datatype, shape=shape)
        response.raw_output_contents.append(content)
    return response


def _encode_ranking(verdict: Verdict, labels: tuple[str, ...], top_classes: int) -> tuple[tuple[int, int], bytes]:
    """Shape and content of the top classes as texts, written as Triton's classification extension does."""
    ranking = verdict.ranking[:, :top_classes]
    texts = (
        f"{verdict.probabilities[image, index]:f}:{index}:{labels[index]}".encode()
        for image, indices in enumerate(ranking.tolist())
        for index in indices
    )
    return ranking.shape, b"".join(struct.pack("<I", len(text)) + text for text in texts)
