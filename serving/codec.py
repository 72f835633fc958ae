"""Protobuf messages in, pixels out; verdicts in, protobuf messages out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from export.manifest import Figures, Input, Manifest
from imaging.files import KNOWN_FORMATS
from protos.consort.v1 import classifier_pb2 as pb
from serving.batch import Effort
from serving.decoding import decode_files
from serving.ensemble import Pixels
from serving.errors import InvalidRequest
from serving.loop import aside_if_long
from serving.metrics.models import Timing
from serving.models import Model
from serving.refusals import Refusal
from serving.settings import ServerSettings
from serving.verdict import Verdict

MOST_DIMENSIONS = 8
"""Of a shape that came; what lies beyond is not looked at."""
LABEL_BYTES = 100
"""To encode a class with its label takes as long as to encode so many bytes of numbers, about."""
ELEMENT_DTYPES: dict[int, np.dtype[Any]] = {
    pb.ELEMENT_TYPE_UINT8: np.dtype(np.uint8),
    pb.ELEMENT_TYPE_FLOAT32: np.dtype("<f4"),
}


async def decode_images(request: pb.ClassifyRequest, expected: Input, settings: ServerSettings) -> Pixels:
    """The request's images as the model takes them.

    Args:
        request: What came.
        expected: What the model takes.
        settings: The limits.

    Returns:
        uint8 (images, channels, height, width).

    Raises:
        InvalidRequest: There are none, too many, or they do not fit the model.
    """
    match request.WhichOneof("images"):
        case "raw":
            raw = request.raw
            return await aside_if_long(len(raw.pixels), decode_raw, raw, expected, settings.max_call_images)
        case "encoded":
            check_count(len(request.encoded.files), settings.max_call_images)
            return await decode_files(request.encoded.files, expected, settings)
    raise InvalidRequest(f"the request has no images; send raw pixels, or {KNOWN_FORMATS} files")


def decode_raw(raw: pb.RawImages, expected: Input, max_images: int) -> Pixels:
    """View, and if need be round, raw pixels as uint8 (images, channels, height, width).

    Raises:
        InvalidRequest: Shape, type, length or values are not what the model takes.
    """
    shape, pixels = tuple(raw.shape[:MOST_DIMENSIONS]), raw.pixels
    if len(shape) != 4 or shape[1:] != expected.shape:
        raise InvalidRequest(
            f"raw pixels have shape {format_shape(shape)}, expected (images)x{format_shape(expected.shape)}"
        )
    check_count(shape[0], max_images)
    if raw.element_type not in ELEMENT_DTYPES:
        raise InvalidRequest(f"element_type is {raw.element_type}, expected UINT8 (1) or FLOAT32 (2)")
    dtype = ELEMENT_DTYPES[raw.element_type]
    expected_bytes = math.prod(shape) * dtype.itemsize
    if len(pixels) != expected_bytes:
        raise InvalidRequest(
            f"raw pixels are {len(pixels)} bytes, expected {expected_bytes} for {format_shape(shape)} {dtype.name}"
        )
    if raw.element_type == pb.ELEMENT_TYPE_UINT8:
        return np.frombuffer(pixels, np.uint8).reshape(shape)
    values = np.frombuffer(pixels, "<f4").reshape(shape)
    if not (values.min() >= 0 and values.max() <= 255):  # also catches NaN
        raise InvalidRequest(
            f"float32 pixels range from {values.min():g} to {values.max():g}, expected finite values in 0..255"
        )
    rounded: Pixels = np.rint(values).astype(np.uint8)
    return rounded


def decode_effort(max_members: int, early_stop: bool, manifest: Manifest) -> Effort:
    """How many members a request asks; 0 stands for all.

    Raises:
        InvalidRequest: There are not so many.
    """
    members = len(manifest.members)
    if max_members > members:
        raise InvalidRequest(f"max_members is {max_members}, expected at most {members}, or 0 for all")
    return Effort(max_members or members, early_stop)


def count_answer(request: pb.ClassifyRequest, verdict: Verdict) -> int:
    """How many bytes are to be encoded, about."""
    members = verdict.members.nbytes if request.return_members else 0
    return int(verdict.probabilities.nbytes + members) + count_labels(verdict, max(request.top_classes, 1))


def count_labels(verdict: Verdict, top_classes: int) -> int:
    """How many bytes the top classes of all images are worth, with their labels."""
    images, classes = verdict.probabilities.shape
    return int(images * min(top_classes, classes) * LABEL_BYTES)


def encode_answer(request: pb.ClassifyRequest, manifest: Manifest, verdict: Verdict) -> pb.ClassifyResponse:
    """The reply, but for its timing."""
    return pb.ClassifyResponse(
        classifications=encode_classifications(
            verdict, manifest.class_labels, request.top_classes, request.return_members
        ),
        model_name=manifest.name,
        model_version=manifest.version,
    )


def encode_classifications(
    verdict: Verdict, labels: tuple[str, ...], top_classes: int, with_members: bool
) -> list[pb.Classification]:
    """One message an image."""
    top = verdict.ranking[:, : max(top_classes, 1)].tolist()
    probabilities = verdict.probabilities.tolist()
    members_run = verdict.members_run.tolist()
    members = verdict.members.transpose(1, 0, 2).tolist() if with_members else [[]] * len(top)
    return [
        pb.Classification(
            top_classes=[
                pb.ScoredClass(index=index, label=labels[index], probability=probabilities[image][index])
                for index in indices
            ],
            probabilities=probabilities[image],
            entropy=verdict.entropy[image],
            mutual_information=verdict.mutual_information[image],
            agreement=verdict.agreement[image],
            members=[
                pb.MemberProbabilities(probabilities=member) for member in members[image][: members_run[image]]
            ],
            members_run=members_run[image],
        )
        for image, indices in enumerate(top)
    ]


def encode_timing(timing: Timing) -> pb.Timing:
    """Both have the same fields."""
    return pb.Timing(**vars(timing))


def encode_summary(manifest: Manifest, is_default: bool, labels: list[str]) -> pb.ModelSummary:
    """Name and version."""
    return pb.ModelSummary(name=manifest.name, version=manifest.version, default_version=is_default, labels=labels)


def encode_refusal(refusal: Refusal, stands: bool) -> pb.Refusal:
    """What callers may know of a refusal."""
    return pb.Refusal(
        model_name=refusal.name,
        version=refusal.version,
        reason=refusal.reason,
        refused_at=refusal.time,
        stands=stands,
    )


def encode_model(model: Model, summary: pb.ModelSummary, refusals: list[Refusal]) -> pb.GetModelResponse:
    """All that clients may know of a model."""
    manifest = model.manifest
    return pb.GetModelResponse(
        model=summary,
        class_labels=manifest.class_labels,
        channels=manifest.input.channels,
        height=manifest.input.height,
        width=manifest.input.width,
        members=[
            pb.Member(
                architecture=member.architecture,
                seed=member.seed,
                parameters=member.parameters,
                multiply_adds=member.multiply_adds,
                held_out_accuracy=member.held_out_accuracy,
            )
            for member in manifest.members
        ],
        temperature=manifest.averaging.temperature,
        held_out=_encode_figures(manifest.held_out),
        test=_encode_figures(manifest.test),
        provider=model.provider,
        refusals=[encode_refusal(refusal, stands=True) for refusal in refusals],
    )


def _encode_figures(figures: Figures) -> pb.Figures:
    low, high = figures.accuracy_interval
    return pb.Figures(
        count=figures.count,
        accuracy=figures.accuracy,
        accuracy_low=low,
        accuracy_high=high,
        nll=figures.nll,
        ece=figures.ece,
    )


def check_count(images: int, most: int) -> None:
    """Refuse a request with no images, or with more than `most`.

    Raises:
        InvalidRequest: It is so.
    """
    if not 1 <= images <= most:
        raise InvalidRequest(f"the request has {images} images, expected 1 to {most}")


def format_shape(shape: tuple[int, ...]) -> str:
    """A shape as messages to callers write it, such as 1x28x28."""
    return "x".join(map(str, shape)) or "(none)"
