"""The layers of a member, as its ONNX graph has them: what each is, its shape, and how far it sees.

The receptive field follows V. Dumoulin and F. Visin, "A guide to convolution arithmetic for deep learning" (2016):
with kernel k, stride s and dilation d, a layer enlarges the field f by d (k - 1) j and the jump j s-fold.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import helper

from export.manifest import INPUT_NAME

KINDS = {
    "Conv": "convolution",
    "BatchNormalization": "batch normalization",
    "Relu": "activation",
    "LeakyRelu": "activation",
    "Elu": "activation",
    "Gelu": "activation",
    "Sigmoid": "activation",
    "Tanh": "activation",
    "MaxPool": "pooling",
    "AveragePool": "pooling",
    "GlobalAveragePool": "pooling",
    "Gemm": "dense",
    "MatMul": "dense",
    "Softmax": "softmax",
}
"""By ONNX operator: what the page calls it. Other operators only pass values on, and are not shown."""
Shapes = dict[str, tuple[int, ...]]
WEIGHTED = ("convolution", "dense")
"""Kinds whose units are what was learned; those of the layers after them are the same ones, shaped."""
RESHAPING = ("Reshape", "Flatten")
SLIDING = ("Conv", "MaxPool", "AveragePool")
SEES_ALL = ("Gemm", "MatMul", "GlobalAveragePool")


@dataclass(frozen=True)
class Field:
    """How much of the input one value sees, in pixels, and how far apart neighbours look.

    Attributes:
        height: Rows; None for all of them.
        width: Columns; None for all of them.
        jump: Pixels of the input between two neighbouring values.
    """

    height: int | None = 1
    width: int | None = 1
    jump: int = 1


@dataclass(frozen=True)
class Layer:
    """One layer of a member.

    Attributes:
        title: Such as "convolution 2".
        kind: One of `KINDS`, or "input".
        operator: ONNX operator.
        tensor: Name of its output in the graph.
        shape: Of its output for one image: channels, height and width, or the number of units.
        field: What one value of it sees.
        kernel: Rows and columns of what slides, or empty.
        padding: Whether it adds a border.
        source: Title of the convolution or dense layer whose units these are, itself or an earlier one, or "".
    """

    title: str
    kind: str
    operator: str
    tensor: str
    shape: tuple[int, ...]
    field: Field
    kernel: tuple[int, ...]
    padding: bool
    source: str


def find_layers(model: onnx.ModelProto) -> tuple[Layer, ...]:
    """All layers worth looking at, from the normalized input to the softmax.

    What comes before the first convolution or dense layer normalizes, whatever its operators are.
    """
    shapes = tensor_shapes(model)
    fields = {INPUT_NAME: Field()}
    layers, count, source = list[Layer](), Counter[str](), ""
    for node in model.graph.node:
        field = fields[node.output[0]] = _field_after(node, fields)
        kind = KINDS.get(node.op_type)
        if kind is None or node.output[0] not in shapes or not (layers or kind in WEIGHTED):
            continue
        if not layers:
            layers.extend(_input_layer(model, node.input[0], shapes))
        count[kind] += 1
        title = f"{kind} {count[kind]}"
        source = title if kind in WEIGHTED else source
        attributes = node_attributes(node)
        layers.append(
            Layer(
                title=title,
                kind=kind,
                operator=node.op_type,
                tensor=node.output[0],
                shape=shapes[node.output[0]],
                field=field,
                kernel=tuple(attributes.get("kernel_shape", ())),
                padding=any(attributes.get("pads", ())),
                source=source,
            )
        )
    return tuple(layers)


def _input_layer(model: onnx.ModelProto, tensor: str, shapes: Shapes) -> Iterator[Layer]:
    """What the first layer gets, as a picture: before it was made flat, if it was."""
    makers = {output: node for node in model.graph.node for output in node.output}
    while tensor in makers and makers[tensor].op_type in RESHAPING:
        tensor = makers[tensor].input[0]
    if len(shapes.get(tensor, ())) == 3:
        yield Layer("input, normalized", "input", "", tensor, shapes[tensor], Field(), (), False, "")


def _field_after(node: onnx.NodeProto, fields: dict[str, Field]) -> Field:
    """The field of a node's output. Ground and strongest stroke, taken from the whole picture, are left out."""
    before = [fields[name] for name in node.input if name in fields] or [Field()]
    widest = max(before, key=lambda field: field.height or 10**9)
    if node.op_type in SEES_ALL:
        return Field(None, None, widest.jump)
    if node.op_type not in SLIDING:
        return widest
    attributes = node_attributes(node)
    kernel = attributes["kernel_shape"]
    strides = attributes.get("strides") or [1, 1]
    dilations = attributes.get("dilations") or [1, 1]
    reach = [dilation * (size - 1) * widest.jump for dilation, size in zip(dilations, kernel, strict=True)]
    return Field(
        None if widest.height is None else widest.height + reach[0],
        None if widest.width is None else widest.width + reach[1],
        widest.jump * strides[0],
    )


def first_weights(model: onnx.ModelProto) -> onnx.TensorProto | None:
    """Weights of the first convolution or dense layer, where the graph has them as plain numbers.

    They tell members apart: export leaves them as they were learned, whatever it does to the layers after.
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if KINDS.get(node.op_type) in WEIGHTED:
            return weights.get(node.input[1])
    return None


def node_attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """By name."""
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def tensor_shapes(model: onnx.ModelProto) -> Shapes:
    """By tensor: its dimensions after the batch, where all are known."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    found = {}
    for value in (*inferred.value_info, *inferred.output):
        dimensions = tuple(_dimensions(value))[1:]
        if dimensions and all(dimensions):
            found[value.name] = dimensions
    return found


def _dimensions(value: onnx.ValueInfoProto) -> Iterator[int]:
    yield from (dimension.dim_value for dimension in value.type.tensor_type.shape.dim)
