"""Messages of any kind with anything in any field, whole or damaged, from their descriptors."""

from __future__ import annotations

import string
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from benchmarks.fuzzing.images import image_file
from protos.consort.v1 import classifier_pb2 as consort
from protos.open_inference.v2 import grpc_service_pb2 as inference

NUMBERS = (
    0,
    1,
    2,
    3,
    6,
    7,
    255,
    256,
    257,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63 - 1,
    2**64 - 1,
    -1,
    -(2**31),
    -(2**63),
)
LIMITS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
    FieldDescriptor.CPPTYPE_ENUM: (-(2**31), 2**31 - 1),
}
FLOATS = (0.0, -0.0, 1.5, -1.0, 1e30, float("inf"), float("-inf"), float("nan"))
MAX_ITEMS = 3


@dataclass(frozen=True)
class Vocabulary:
    """What a server knows, so that some requests get past its first checks.

    Attributes:
        model: Name of a model.
        shape: Of one of its images: channels, height, width.
    """

    model: str
    shape: tuple[int, int, int]

    @property
    def words(self) -> tuple[str, ...]:
        """Texts that mean something."""
        return (
            *("", self.model, "1", "2", "01", "pixels", "UINT8", "FP32", "probabilities", "class", "members"),
            *("entropy", "early_stop", "max_members", "classification", "binary_data_size", "..", "\x00"),
        )

    @property
    def image_bytes(self) -> int:
        """Of one image of uint8."""
        channels, height, width = self.shape
        return channels * height * width


METHODS = tuple(
    (f"/{service.full_name}/{method.name}", method.input_type)
    for file in (consort.DESCRIPTOR, inference.DESCRIPTOR)
    for service in file.services_by_name.values()
    for method in service.methods
)
"""Every method of both services, with what it takes."""


class MessageFuzzer:
    """Makes requests; the same ones from the same seed."""

    def __init__(self, random: Random, vocabulary: Vocabulary) -> None:
        self._random = random
        self._vocabulary = vocabulary

    def request(self) -> tuple[str, bytes]:
        """A method and what is sent to it."""
        random = self._random
        # Half of all go to the two methods that take images; the rest is soon explored.
        heavy = [one for one in METHODS if one[0].endswith(("/Classify", "/ModelInfer"))]
        method, kind = random.choice(heavy if random.random() < 0.5 else METHODS)
        message = self._good(kind) if random.random() < 0.5 else GetMessageClass(kind)()
        self.fill(message, random.choice((0.05, 0.2, 0.6)))
        return method, self._damage(message.SerializeToString())

    def fill(self, message: Message, share: float) -> None:
        """Set about a share of a message's fields to anything."""
        for field in message.DESCRIPTOR.fields:
            if self._random.random() < share:
                message.ClearField(field.name)
                self._set(message, cast(FieldDescriptor, field))

    def _set(self, message: Message, field: FieldDescriptor) -> None:
        value: Any = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            for _ in range(self._random.randrange(MAX_ITEMS)):
                self.fill(value[self._text()], 0.6)
        elif field.is_repeated:
            for _ in range(self._random.randrange(MAX_ITEMS + 1)):
                if field.message_type is not None:
                    self.fill(value.add(), 0.6)
                else:
                    value.append(self._scalar(field))
        elif field.message_type is not None:
            value.SetInParent()
            self.fill(value, 0.6)
        else:
            setattr(message, field.name, self._scalar(field))

    def _scalar(self, field: FieldDescriptor) -> Any:
        kind = field.cpp_type
        if kind in LIMITS:
            low, high = LIMITS[kind]
            return self._random.choice([number for number in NUMBERS if low <= number <= high])
        makers: dict[int, Callable[[], Any]] = {
            FieldDescriptor.CPPTYPE_BOOL: lambda: self._random.random() < 0.5,
            FieldDescriptor.CPPTYPE_DOUBLE: lambda: self._random.choice(FLOATS),
            FieldDescriptor.CPPTYPE_FLOAT: lambda: self._random.choice(FLOATS),
            FieldDescriptor.CPPTYPE_STRING: self._bytes
            if field.type == FieldDescriptor.TYPE_BYTES
            else self._text,
        }
        return makers[kind]()

    def _text(self) -> str:
        random = self._random
        match random.randrange(4):
            case 0:
                return "".join(random.choices(string.printable, k=random.randrange(20)))
            case 1:
                return random.choice(("\N{SNOWMAN}", "\U0001f600", "%s%n", "\r\n", "a" * 2000)) * random.randint(
                    1, 3
                )
        return random.choice(self._vocabulary.words)

    def _bytes(self) -> bytes:
        size = self._vocabulary.image_bytes
        match self._random.randrange(4):
            case 0:
                return self._random.randbytes(self._random.randrange(64))
            case 1:
                return bytes(self._random.choice((size, size * 2, size * 4, size - 1)))
        return image_file(self._random)

    def _good(self, kind: Descriptor) -> Message:
        """A request that would be answered, where there is something to ask about."""
        model, shape, size = self._vocabulary.model, self._vocabulary.shape, self._vocabulary.image_bytes
        if kind.name == "ClassifyRequest":
            if self._random.random() < 0.3:
                raw = consort.RawImages(
                    pixels=bytes(size), shape=(1, *shape), element_type=consort.ELEMENT_TYPE_UINT8
                )
                return consort.ClassifyRequest(model_name=model, raw=raw)
            files = [image_file(self._random) for _ in range(self._random.randint(1, MAX_ITEMS))]
            return consort.ClassifyRequest(model_name=model, encoded=consort.EncodedImages(files=files))
        if kind.name == "ModelInferRequest":
            pixels = inference.ModelInferRequest.InferInputTensor(
                name="pixels", datatype="UINT8", shape=(1, *shape)
            )
            return inference.ModelInferRequest(model_name=model, inputs=[pixels], raw_input_contents=[bytes(size)])
        return GetMessageClass(kind)()

    def _damage(self, content: bytes) -> bytes:
        """One message in five is no message any more, or another one."""
        random = self._random
        match random.randrange(15):
            case 0:
                return content[: random.randrange(len(content) + 1)]
            case 1:
                return content + random.randbytes(random.randint(1, 20))
            case 2 if content:
                changed = bytearray(content)
                changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
                return bytes(changed)
        return content
