"""A typed client: numpy arrays, paths or bytes in, dataclasses out.

    with Client("localhost:8001") as client:
        result = client.classify(["three.png"])
        print(result.classifications[0].label)

One client may be shared by many threads. Calls to a target with several addresses, such as
`dns:///consort-servers:8001`, are spread over all of them; a call that finds a server lost is sent to another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
import numpy as np
import numpy.typing as npt

from protos.consort.v1 import classifier_pb2 as pb
from protos.consort.v1 import classifier_pb2_grpc
from serving.channel import IN_THE_CLEAR, Credentials, require_timeout
from serving.client.service_config import SERVICE_CONFIG

DEFAULT_TARGET = "localhost:8001"
ImageFile = str | Path | bytes
"""Path of an image file, or the content of one."""
PixelArray = npt.NDArray[np.uint8] | npt.NDArray[np.float32]
"""(images, channels, height, width) of values 0..255, in the model's own size."""

Request = TypeVar("Request")
Response = TypeVar("Response")


class CallError(Exception):
    """A call failed.

    Attributes:
        code: The gRPC status.
        message: What the server, or gRPC itself, says about it.
    """

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(f"{code.name}: {message}")
        self.code = code
        self.message = message


@dataclass(frozen=True)
class ScoredClass:
    """A class's index in the model's list, its label and its probability, 0..1."""

    index: int
    label: str
    probability: float


@dataclass(frozen=True, eq=False)
class Classification:
    """What the ensemble says of one image.

    Attributes:
        top_classes: The most probable classes, best first.
        probabilities: float32 (classes,), the calibrated average.
        entropy: Of the members' plain average, in nats.
        mutual_information: The part of the entropy that is disagreement between members, in nats.
        agreement: Share of members that ran whose top class is the ensemble's.
        members_run: How many members ran.
        members: float32 (members_run, classes), or None if not asked for.
    """

    top_classes: tuple[ScoredClass, ...]
    probabilities: npt.NDArray[np.float32]
    entropy: float
    mutual_information: float
    agreement: float
    members_run: int
    members: npt.NDArray[np.float32] | None

    @property
    def label(self) -> str:
        """Label of the most probable class."""
        return self.top_classes[0].label

    @property
    def probability(self) -> float:
        """Probability of the most probable class."""
        return self.top_classes[0].probability


@dataclass(frozen=True)
class Timing:
    """Where a call's time went inside the server, in seconds."""

    decode_seconds: float
    queue_seconds: float
    inference_seconds: float
    total_seconds: float


@dataclass(frozen=True)
class Result:
    """The answer to one call: a classification an image, in order, and who gave it."""

    classifications: tuple[Classification, ...]
    model_name: str
    model_version: int
    timing: Timing


class Client:
    """A connection to a server."""

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        timeout_seconds: float = 10.0,
        credentials: Credentials = IN_THE_CLEAR,
    ) -> None:
        """Prepare a connection; nothing is sent before the first call.

        Args:
            target: Host and port of the server, or a gRPC name of several.
            timeout_seconds: Deadline of every call that names none of its own.
            credentials: TLS and token; without, calls go in the clear and as nobody in particular.

        Raises:
            OSError: A file of the credentials cannot be read.
            ValueError: `timeout_seconds` is longer than a week, or no number.
        """
        self.target = target
        self.timeout_seconds = require_timeout(timeout_seconds)
        self._channel = credentials.open_channel(target, ("grpc.service_config", SERVICE_CONFIG))
        self._metadata = credentials.metadata
        self._stub = classifier_pb2_grpc.ClassifierStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the connection back; calls in progress are cancelled."""
        self._channel.close()

    def wait_until_ready(self, timeout_seconds: float) -> None:
        """Wait until the server accepts connections.

        Raises:
            CallError: It does not within `timeout_seconds`.
            ValueError: `timeout_seconds` is longer than a week, or no number.
        """
        require_timeout(timeout_seconds)
        ready = grpc.channel_ready_future(self._channel)
        try:
            ready.result(timeout_seconds)
        except grpc.FutureTimeoutError as error:
            raise CallError(
                grpc.StatusCode.UNAVAILABLE, f"no server at {self.target} within {timeout_seconds:g} s"
            ) from error
        finally:
            ready.cancel()  # or else the channel would keep it, and watch itself for it

    def classify(
        self,
        images: Sequence[ImageFile] | PixelArray,
        *,
        model: str = "",
        version: int = 0,
        label: str = "",
        top_classes: int = 1,
        members: bool = False,
        max_members: int = 0,
        early_stop: bool = False,
        timeout_seconds: float | None = None,
    ) -> Result:
        """Classify a batch of images.

        Args:
            images: Image files of any size, or an array (images, channels, height, width) of uint8 or float32
                values 0..255 in the model's size.
            model: Name of the model; may be empty where the server has a default.
            version: Of the model; 0 takes the one labelled stable, or else the latest.
            label: Of the version, instead of its number.
            top_classes: How many classes to rank.
            members: Whether to return each member's probabilities.
            max_members: Most members to ask; 0 asks all.
            early_stop: Whether an image leaves once the members still to come cannot change its class.
            timeout_seconds: Deadline of this call.

        Raises:
            CallError: The server refuses the call or cannot be reached in time.
            OSError: An image file cannot be read.
            TypeError: The images are neither a sequence of files nor an array of uint8 or float32.
            ValueError: `version`, `top_classes` or `max_members` is negative, or `timeout_seconds` is longer than
                a week or no number.
        """
        if isinstance(images, str | bytes | Path):
            raise TypeError(f"images are one {type(images).__name__}, expected a list of files or an array")
        request = pb.ClassifyRequest(
            model_name=model,
            model_version=version,
            model_label=label,
            top_classes=top_classes,
            return_members=members,
            max_members=max_members,
            early_stop=early_stop,
        )
        if isinstance(images, np.ndarray):
            request.raw.CopyFrom(_raw_images(images))
        else:
            request.encoded.files.extend(_read(image) for image in images)
        response = self._call(self._stub.Classify, request, timeout_seconds)
        return _result(response)

    def list_models(self) -> tuple[pb.ModelSummary, ...]:
        """Name and version of every model that is served.

        Raises:
            CallError: The server cannot be reached in time.
        """
        return tuple(self._call(self._stub.ListModels, pb.ListModelsRequest()).models)

    def get_model(self, name: str = "", version: int = 0, label: str = "") -> pb.GetModelResponse:
        """Describe one model; an empty name means the default one, and so do version 0 and no label.

        Raises:
            CallError: There is no such model, or the server cannot be reached in time.
        """
        return self._call(self._stub.GetModel, pb.GetModelRequest(name=name, version=version, label=label))

    def _call(
        self,
        method: Callable[..., Response],
        request: object,
        timeout_seconds: float | None = None,
    ) -> Response:
        timeout = self.timeout_seconds if timeout_seconds is None else require_timeout(timeout_seconds)
        try:
            return method(request, timeout=timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            raise CallError(error.code(), error.details() or "") from error


def _raw_images(pixels: PixelArray) -> pb.RawImages:
    types: dict[np.dtype[Any], pb.ElementType.ValueType] = {
        np.dtype(np.uint8): pb.ELEMENT_TYPE_UINT8,
        np.dtype(np.float32): pb.ELEMENT_TYPE_FLOAT32,
    }
    if pixels.dtype not in types:
        raise TypeError(f"pixels are {pixels.dtype}, expected uint8 or float32 values in 0..255")
    return pb.RawImages(
        pixels=np.ascontiguousarray(pixels).tobytes(), shape=pixels.shape, element_type=types[pixels.dtype]
    )


def _read(image: ImageFile) -> bytes:
    return image if isinstance(image, bytes) else Path(image).read_bytes()


def _result(response: pb.ClassifyResponse) -> Result:
    timing = response.timing
    return Result(
        classifications=tuple(_classification(one) for one in response.classifications),
        model_name=response.model_name,
        model_version=response.model_version,
        timing=Timing(timing.decode_seconds, timing.queue_seconds, timing.inference_seconds, timing.total_seconds),
    )


def _classification(message: pb.Classification) -> Classification:
    members = np.array([member.probabilities for member in message.members], np.float32)
    return Classification(
        top_classes=tuple(ScoredClass(top.index, top.label, top.probability) for top in message.top_classes),
        probabilities=np.array(message.probabilities, np.float32),
        entropy=message.entropy,
        mutual_information=message.mutual_information,
        agreement=message.agreement,
        members_run=message.members_run,
        members=members if len(members) else None,
    )
