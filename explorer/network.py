"""Members of the bundles on disk, opened so that every layer's output can be had."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from pydantic import TypeAdapter, ValidationError

from explorer.errors import BundleUnusable, InvalidRequest, NoGradient
from explorer.gradients import GUIDED, PLAIN, GradientGraph, build_gradient_graph
from explorer.layers import Layer, find_layers, first_weights
from export.manifest import (
    INPUT_NAME,
    OUTPUT_NAME,
    Manifest,
    ManifestError,
    Member,
    Name,
    read_manifest,
    sha256_of,
)
from imaging.files import Pixels

Floats = npt.NDArray[np.float32]
MOST_OPEN = 12
"""Networks that are kept open; the one that was used longest ago makes room."""
NAME = TypeAdapter(Name)


@dataclass(frozen=True)
class Gradients:
    """How one value of a layer changes with the normalized input; float32 (channels, height, width) each.

    Attributes:
        plain: The gradient.
        guided: Without what speaks against the value.
    """

    plain: Floats
    guided: Floats


class Network:
    """One member, with its layers as further outputs.

    Attributes:
        shape: Channels, height and width of its input.
        layers: From the normalized input to the softmax.
        weights: float32 of the first layer that has any, or None.
    """

    def __init__(self, file: Path, shape: tuple[int, int, int]) -> None:
        self._model = onnx.load(file)
        self.shape = shape
        self.layers = find_layers(self._model)
        weights = first_weights(self._model)
        self.weights: Floats | None = None if weights is None else numpy_helper.to_array(weights)
        self._session = _open(self._model, self.layers)

    @property
    def filters(self) -> Floats | None:
        """float32 (filters, channels, rows, columns) of the first convolution, or None."""
        return self.weights if self.weights is not None and self.weights.ndim == 4 else None

    def activations(self, pixels: Pixels, layer: Layer) -> tuple[Floats, Floats]:
        """What a layer gives for one image.

        Args:
            pixels: uint8 (channels, height, width).
            layer: One of `layers`.

        Returns:
            float32 of the layer's shape, and the member's probabilities, float32 (classes,).
        """
        values, probabilities = self._session.run([layer.tensor, OUTPUT_NAME], {INPUT_NAME: pixels[np.newaxis]})
        return values[0], probabilities[0]

    def values(self, pixels: Pixels, layer: Layer, unit: int) -> Floats:
        """One value of a layer for many images.

        Args:
            pixels: uint8 (images, channels, height, width).
            layer: One of `layers`.
            unit: Which value, counted from 0 through the layer's shape in C order.

        Returns:
            float32 (images,).
        """
        (values,) = self._session.run([layer.tensor], {INPUT_NAME: pixels})
        found: Floats = values.reshape(len(pixels), -1)[:, unit]
        return found

    def gradients(self, pixels: Pixels, layer: int, unit: int) -> Gradients:
        """How one value of a layer changes with the normalized input.

        Args:
            pixels: uint8 (channels, height, width).
            layer: From 0.
            unit: Which value, counted from 0 through the layer's shape in C order.

        Raises:
            NoGradient: No way is known from there to the input.
        """
        graph, session = self._way_back
        if layer not in graph.seeds:
            raise NoGradient(_why_none(self.layers[layer], graph.obstacles[layer]))
        seeds = {name: np.zeros((1, *self.layers[index].shape), np.float32) for index, name in graph.seeds.items()}
        seeds[graph.seeds[layer]].flat[unit] = 1
        plain, guided = session.run([PLAIN, GUIDED], {INPUT_NAME: pixels[np.newaxis], **seeds})
        return Gradients(plain[0], guided[0])

    @cached_property
    def _way_back(self) -> tuple[GradientGraph, Any]:
        """Made when it is first asked for."""
        graph = build_gradient_graph(self._model, self.layers)
        return graph, _session(graph.model) if graph.seeds else None


class Bundles:
    """The folder of bundles; may be asked from many threads."""

    def __init__(self, models: Path) -> None:
        self._models = models
        self._open: OrderedDict[tuple[Path, str], Network] = OrderedDict()
        self._lock = threading.Lock()

    def network(self, name: str, version: int, member: int) -> Network:
        """A member, opened when it is first asked for.

        Args:
            name: Of the model.
            version: Of the model.
            member: From 1.

        Raises:
            BundleUnusable: The bundle is not here, it is damaged, or its file cannot be looked into.
            InvalidRequest: No model can have that name, or this one has no such member.
        """
        folder, manifest = self._find(name, version)
        if not 1 <= member <= len(manifest.members):
            raise InvalidRequest(f"member is {member}, expected 1 to {len(manifest.members)}")
        described = manifest.members[member - 1]
        key = (folder, described.sha256)  # a bundle that takes another's place has other members
        with self._lock:
            if key not in self._open:
                self._open[key] = _load(folder, manifest, described)
            self._open.move_to_end(key)
            if len(self._open) > MOST_OPEN:
                self._open.popitem(last=False)
            return self._open[key]

    def _find(self, name: str, version: int) -> tuple[Path, Manifest]:
        """A bundle's folder, and what is written there."""
        try:
            folder = self._models / NAME.validate_python(name) / str(version)
        except ValidationError as error:
            raise InvalidRequest("the model's name is none that a model can have") from error
        if not folder.is_dir():
            raise BundleUnusable(
                f"The explorer has no bundle {name}/{version} in its models folder, so it cannot look in. "
                "Start it with --models naming the folder that the server serves."
            )
        try:
            return folder, read_manifest(folder)
        except ManifestError as error:
            raise BundleUnusable(
                f"The bundle {name}/{version} that the explorer has is damaged: {error}"
            ) from error


def _load(folder: Path, manifest: Manifest, member: Member) -> Network:
    named = f"{member.file} of {manifest.name}/{manifest.version}"
    file = folder / member.file
    if not file.is_file() or sha256_of(file) != member.sha256:
        raise BundleUnusable(f"{named} is not the file that its manifest describes.")
    try:
        return Network(file, manifest.input.shape)
    except Exception as error:  # each of the libraries that read it has errors of its own
        raise BundleUnusable(f"{named} cannot be looked into: {error}") from error


def _open(model: onnx.ModelProto, layers: tuple[Layer, ...]) -> Any:
    """A session in which nothing is fused: layers between others must exist to be seen."""
    given = {output.name for output in model.graph.output}
    for tensor in dict.fromkeys(layer.tensor for layer in layers):
        if tensor not in given:
            model.graph.output.append(helper.make_tensor_value_info(tensor, TensorProto.FLOAT, None))
    return _session(model)


def _session(model: onnx.ModelProto) -> Any:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _why_none(layer: Layer, obstacle: str) -> str:
    if layer.kind == "input":
        return "This is the input itself: what it changes with is the picture."
    if not obstacle:
        return "This layer does not follow from the first layer's input, so it has no gradient."
    return (
        f"No gradient can be had from here: on the way to the input lies {obstacle}, whose derivative the "
        "explorer does not know."
    )
