"""A trained member as an ONNX graph: uint8 pixels in, probabilities out, any batch size."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import cast

import onnx
import torch
from torch import Tensor, nn

from export.errors import GraphError
from export.manifest import INPUT_NAME, OUTPUT_NAME
from training.architectures import Network, Shape

OPSET = 20


class ServedNetwork(nn.Module):
    """A network as it is served: it takes bytes and gives probabilities."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        """uint8 (batch, channels, height, width) to probabilities float32 (batch, classes)."""
        logits: Tensor = self.network(pixels.float())
        return logits.softmax(dim=1)


def write_graph(network: ServedNetwork, shape: Shape, path: Path) -> None:
    """Write the network as one ONNX file, weights inside, that passes onnx's own checker.

    Raises:
        GraphError: The exporter or the checker refuses it.
    """
    try:
        model = _trace(network.eval(), shape)
    except torch.onnx.errors.OnnxExporterError as error:
        raise GraphError(f"{path.name} cannot be written: {error}") from error
    save_graph(model, path)


def save_graph(model: onnx.ModelProto, path: Path) -> None:
    """Write a graph without its debugging notes, weights inside, if it passes onnx's own checker.

    Raises:
        GraphError: The checker refuses it.
    """
    _strip_metadata(model)
    onnx.save(model, path)
    try:
        onnx.checker.check_model(path, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise GraphError(f"{path.name} cannot be written: {error}") from error


def _trace(network: ServedNetwork, shape: Shape) -> onnx.ModelProto:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns that torchvision is absent
    example = torch.zeros(2, *shape, dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's exporter calls its own deprecated functions
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT_NAME],
            output_names=[OUTPUT_NAME],
            dynamic_shapes={"pixels": {0: torch.export.Dim("batch")}},
            verbose=False,
        )
    return cast(torch.onnx.ONNXProgram, program).model_proto  # with dynamo=True it is one


def _strip_metadata(model: onnx.ModelProto) -> None:
    """Drop what the exporter notes for debugging: it names source files and doubles the graph's text."""
    model.ClearField("metadata_props")
    graph = model.graph
    graph.ClearField("metadata_props")
    for part in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
