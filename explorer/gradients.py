"""Gradients of any unit of a member with respect to its normalized input, as an ONNX graph: no torch is needed.

The graph runs the member forward, and then each operator's derivative backward, as torch's autograd would:

    Conv -> ConvTranspose with the same weights         Relu -> passed on where the output is above 0
    MaxPool -> added where the maximum was              Gemm, MatMul -> times the transposed weights
    BatchNormalization -> times scale / deviation       Softmax -> y (g - sum(g y))

Guided gradients pass a ReLU only where they are above 0 themselves (J. T. Springenberg et al., "Striving for
Simplicity: The All Convolutional Net", 2015): what speaks against the unit is left out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from explorer.layers import Layer, Shapes, node_attributes, tensor_shapes

PLAIN, GUIDED = "plain gradient", "guided gradient"


@dataclass(frozen=True)
class GradientGraph:
    """From pixels and seeds to gradients.

    Attributes:
        model: Takes the member's pixels and all `seeds`; gives `PLAIN` and `GUIDED`, float32 (1, channels, height,
            width), of the sum of all values of all layers, each times its seed.
        seeds: By layer, from 0: the name of its seed, float32 (1, *the layer's shape).
        obstacles: By layer that has no seed: the operator in the way, or "" if no way leads to the input.
    """

    model: onnx.ModelProto
    seeds: dict[int, str]
    obstacles: dict[int, str]


def build_gradient_graph(model: onnx.ModelProto, layers: Sequence[Layer]) -> GradientGraph:
    """Add the way back to a member's graph.

    Args:
        model: The member's; it is left as it is.
        layers: Of the member, as `find_layers` gives them.
    """
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    start, shapes = layers[0], tensor_shapes(model)
    found = find_obstacles(whole, start.tensor, shapes) if start.kind == "input" else {}
    obstacles = {index: found.get(layer.tensor, "") for index, layer in enumerate(layers)}
    seeds = {
        index: f"seed of {layer.title}"
        for index, layer in enumerate(layers)
        if layer is not start and found.get(layer.tensor, "none") == ""
    }
    by_tensor = {layers[index].tensor: name for index, name in seeds.items()}
    ways = [_WayBack(whole, found, shapes, title, by_tensor) for title in (PLAIN, GUIDED)] if seeds else []
    for index, name in seeds.items():
        whole.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, *layers[index].shape]))
    del whole.graph.output[:]
    for way in ways:
        way.go(start.tensor)
    return GradientGraph(whole, seeds, {index: obstacles[index] for index in obstacles if index not in seeds})


def find_obstacles(model: onnx.ModelProto, start: str, shapes: Shapes) -> dict[str, str]:
    """By tensor that `start` leads to: the first operator on the way whose derivative is not known, or ""."""
    weights = {tensor.name for tensor in model.graph.initializer}
    found = {start: ""}
    for node in model.graph.node:
        led = [at for at, name in enumerate(node.input) if name in found]
        if not led:
            continue
        before = next((found[node.input[at]] for at in led if found[node.input[at]]), "")
        obstacle = before or ("" if _is_known(node, led, shapes, weights) else node.op_type)
        found |= {output: obstacle for output in node.output if output}
    return found


def _is_known(node: NodeProto, led: Sequence[int], shapes: Shapes, weights: set[str]) -> bool:
    """Whether an operator's derivative with respect to the inputs at `led` is known."""
    attributes = node_attributes(node)
    known = list(led) == [0]
    explicit = attributes.get("auto_pad", b"NOTSET") == b"NOTSET"
    alike = all(shapes.get(node.input[at]) == shapes.get(node.output[0]) for at in led)
    match node.op_type:
        case "Relu" | "MatMul" | "Flatten" | "Reshape" | "Identity" | "Dropout":
            pass
        case "Conv":
            known = known and explicit
        case "MaxPool":
            known = explicit and not attributes.get("storage_order", 0)
        case "Gemm":
            known = known and not attributes.get("transA", 0)
        case "BatchNormalization":
            known = known and weights.issuperset(node.input[1:])
        case "Softmax":
            known = attributes.get("axis", -1) in (-1, len(shapes[node.output[0]]))
        case "Div":
            known = known and alike
        case "Add" | "Sub" | "Mul":
            known = alike
        case _:
            known = False
    return known


class _WayBack:
    """Adds nodes to a graph that lead gradients from the seeds to the input."""

    def __init__(
        self, model: onnx.ModelProto, reached: dict[str, str], shapes: Shapes, title: str, seeds: dict[str, str]
    ) -> None:
        self._graph = model.graph
        self._forward = list(model.graph.node)
        self._weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self._reached = reached
        self._shapes = shapes
        self._title = title
        self._gradients: dict[str, list[str]] = defaultdict(list)
        for tensor, seed in seeds.items():
            self._gradients[tensor].append(seed)

    def go(self, start: str) -> None:
        """Walk from the last node to `start`, whose gradient becomes an output."""
        for node in reversed(self._forward):
            if node.output[0] == start or node.output[0] not in self._gradients:
                continue
            gradient = self._sum(self._gradients.pop(node.output[0]))
            for at, name in enumerate(node.input):
                if name in self._reached:
                    self._gradients[name].append(RULES[node.op_type](self, node, at, gradient))
        self.add("Identity", self._sum(self._gradients[start]), output=self._title)
        self._graph.output.append(helper.make_tensor_value_info(self._title, TensorProto.FLOAT, None))

    def add(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """One more node; gives the name of its output."""
        output = output or f"{self._title} {len(self._graph.node)}"
        self._graph.node.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def constant(self, values: Any) -> str:
        """One more weight; gives its name."""
        name = f"{self._title} constant {len(self._graph.initializer)}"
        self._graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def _sum(self, names: list[str]) -> str:
        return names[0] if len(names) == 1 else self.add("Sum", *names)

    def relu(self, node: NodeProto, _at: int, gradient: str) -> str:
        """Where the output is above 0; guided, where the gradient is, too."""
        zero = self.constant(np.float32(0))
        passes = self.add("Greater", node.output[0], zero)
        if self._title == GUIDED:
            passes = self.add("And", passes, self.add("Greater", gradient, zero))
        return self.add("Where", passes, gradient, zero)

    def convolution(self, node: NodeProto, _at: int, gradient: str) -> str:
        """Transposed; rows and columns that the stride left over get 0."""
        attributes = {
            name: value
            for name, value in node_attributes(node).items()
            if name in ("strides", "pads", "dilations", "group", "kernel_shape")
        }
        before, after = self._shapes[node.input[0]][1:], self._shapes[node.output[0]][1:]
        kernel = attributes.get("kernel_shape") or self._weights[node.input[1]].dims[2:]
        ones, none = [1] * len(kernel), [0] * 2 * len(kernel)
        strides, dilations = attributes.get("strides", ones), attributes.get("dilations", ones)
        pads = attributes.get("pads", none)
        left_over = [
            before[axis]
            - ((after[axis] - 1) * strides[axis] + dilations[axis] * (kernel[axis] - 1) + 1)
            + pads[axis]
            + pads[axis + len(kernel)]
            for axis in range(len(kernel))
        ]
        return self.add("ConvTranspose", gradient, node.input[1], output_padding=left_over, **attributes)

    def max_pool(self, node: NodeProto, _at: int, gradient: str) -> str:
        """Added where the maximum was, which the pool then has to tell."""
        if len(node.output) == 1:
            node.output.append(f"{node.output[0]} places")
        every = self.constant(np.array([-1], np.int64))
        zero = helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0])
        size = self.add("Shape", self.add("Reshape", node.input[0], every))
        flat = self.add(
            "ScatterElements",
            self.add("ConstantOfShape", size, value=zero),
            self.add("Reshape", node.output[1], every),
            self.add("Reshape", gradient, every),
            reduction="add",
        )
        return self.reshape(node, 0, flat)

    def reshape(self, node: NodeProto, _at: int, gradient: str) -> str:
        """In the shape of what came in."""
        return self.add("Reshape", gradient, self.add("Shape", node.input[0]))

    def dense(self, node: NodeProto, _at: int, gradient: str) -> str:
        """Times the transposed weights."""
        attributes = node_attributes(node)
        transposed, scale = attributes.get("transB", 0), attributes.get("alpha", 1.0)
        return self.add("Gemm", gradient, node.input[1], transB=1 - transposed, alpha=scale)

    def batch_normalization(self, node: NodeProto, _at: int, gradient: str) -> str:
        """Each channel times scale / deviation."""
        scale, _, _, variance = (
            numpy_helper.to_array(self._weights[name]).astype(np.float64) for name in node.input[1:]
        )
        factor = scale / np.sqrt(variance + node_attributes(node).get("epsilon", 1e-5))
        wide = (-1, *[1] * (len(self._shapes[node.input[0]]) - 1))
        return self.add("Mul", gradient, self.constant(factor.reshape(wide).astype(np.float32)))

    def softmax(self, node: NodeProto, _at: int, gradient: str) -> str:
        """Y (g - sum(g y)), as above."""
        output = node.output[0]
        last = self.constant(np.array([-1], np.int64))
        total = self.add("ReduceSum", self.add("Mul", gradient, output), last, keepdims=1)
        return self.add("Mul", output, self.add("Sub", gradient, total))

    def pass_on(self, _node: NodeProto, _at: int, gradient: str) -> str:
        """As it is."""
        return gradient

    def subtraction(self, _node: NodeProto, at: int, gradient: str) -> str:
        """As it is, or turned round."""
        return self.add("Neg", gradient) if at else gradient

    def product(self, node: NodeProto, at: int, gradient: str) -> str:
        """Times the other factor."""
        return self.add("Mul", gradient, node.input[1 - at])

    def quotient(self, node: NodeProto, _at: int, gradient: str) -> str:
        """By the divisor."""
        return self.add("Div", gradient, node.input[1])


RULES: dict[str, Callable[[_WayBack, NodeProto, int, str], str]] = {
    "Conv": _WayBack.convolution,
    "Relu": _WayBack.relu,
    "MaxPool": _WayBack.max_pool,
    "Gemm": _WayBack.dense,
    "MatMul": _WayBack.dense,
    "BatchNormalization": _WayBack.batch_normalization,
    "Softmax": _WayBack.softmax,
    "Flatten": _WayBack.reshape,
    "Reshape": _WayBack.reshape,
    "Identity": _WayBack.pass_on,
    "Dropout": _WayBack.pass_on,
    "Add": _WayBack.pass_on,
    "Sub": _WayBack.subtraction,
    "Mul": _WayBack.product,
    "Div": _WayBack.quotient,
}
