"""Members in int8: cheaper where convolutions are large, at the price of probabilities that are a little off.

Static quantization by onnxruntime's own tools: ranges of activations from training images, weights channel by
channel. What it costs is measured on the held-out images, and too dear is refused.

Float32 stay: everything before the first convolution; that convolution, which reads one to three channels and is
slower in int8; what comes out of dense layers, so that logits are not rounded; the softmax.

Weights have 7 bits. With 8, onnxruntime's kernels for x86 without VNNI add two products in 16 bits, which
overflows; with 7, sums are exact, and the same on every processor
(docs/decisions/0009-int8-weights-have-seven-bits.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
import torch
from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor

from export.errors import QuantizationError
from export.graph import save_graph
from export.manifest import INPUT_NAME, Quantization
from export.proof import Pixels, run_graph
from training.dataset import Dataset, Images
from training.evaluation import average, measure
from training.summary import Members, Predictions, Summary, summarize

CALIBRATION_IMAGES = 512
CALIBRATION_BATCH_IMAGES = 32
MOST_ACCURACY_LOST = 0.0005
"""As a share of the held-out images: 0.05 points."""
QUANTIZED = ("Conv", "Gemm", "MaxPool", "Relu")
"""ReLU and pooling only pass int8 values on; without them each would be a way to float32 and back."""


def quantize(
    graphs: Sequence[Path], members: Members, float32: Predictions, dataset: Dataset
) -> tuple[Summary, Predictions, Quantization]:
    """Make the members' graphs int8 and measure what comes out.

    Args:
        graphs: ONNX files of the members in float32; exchanged for int8.
        members: The networks that they were written from.
        float32: What those predict.
        dataset: The images that they were trained and measured on.

    Returns:
        The figures of the int8 ensemble, at a temperature of its own, what it predicts, and what it lost.

    Raises:
        QuantizationError: It cannot be done, or the ensemble lost too much.
        GraphError: A quantized graph is not valid.
    """
    calibration = spread(dataset.train, CALIBRATION_IMAGES)
    for graph in graphs:
        quantize_graph(graph, calibration)
    held_out = predict(graphs, dataset.held_out)
    quantization = compare(float32.held_out, held_out, dataset.held_out.labels, len(calibration))
    require_small_loss(quantization, len(dataset.held_out))
    # Only now, when nothing is left to decide, are the test images looked at.
    predictions = Predictions(predict(graphs, dataset.train_sample), held_out, predict(graphs, dataset.test))
    return summarize(members, predictions, dataset), predictions, quantization


def quantize_graph(path: Path, calibration: Images) -> None:
    """Exchange a float32 graph for its int8 form, by ranges measured on images.

    Raises:
        GraphError: What comes out is not valid.
        QuantizationError: onnxruntime cannot do it.
    """
    with TemporaryDirectory() as folder:
        quantized = Path(folder) / "quantized.onnx"
        try:
            _quantize(path, quantized, calibration)
        except Exception as error:  # onnxruntime's tools have no errors of their own
            raise QuantizationError(f"onnxruntime cannot make {path.name} int8: {error}") from error
        save_graph(onnx.load(quantized), path)


def _quantize(path: Path, quantized: Path, calibration: Images) -> None:
    prepared = quantized.with_name("prepared.onnx")
    # Symbolic shapes are not needed, and their inference fails on what torch's exporter writes.
    quant_pre_process(path, prepared, skip_symbolic_shape=True)
    quantize_static(
        prepared,
        quantized,
        CalibrationBatches(calibration),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=list(QUANTIZED),
        nodes_to_exclude=first_convolution(onnx.load(prepared)),
        per_channel=True,
        reduce_range=True,  # weights of 7 bits
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm"]},
    )


def first_convolution(model: onnx.ModelProto) -> list[str]:
    """Name of the convolution that reads the image; none in a network without."""
    return [node.name for node in model.graph.node if node.op_type == "Conv"][:1]


class CalibrationBatches:
    """Images as onnxruntime's calibration asks for them."""

    def __init__(self, images: Images) -> None:
        self._batches: Iterator[Tensor] = iter(torch.split(images.pixels, CALIBRATION_BATCH_IMAGES))

    def get_next(self) -> dict[str, Pixels] | None:
        """The next batch by the name of the graph's input; None at the end."""
        batch = next(self._batches, None)
        return None if batch is None else {INPUT_NAME: batch.numpy()}


def spread(images: Images, count: int) -> Images:
    """`count` images evenly spaced over all, or all if there are fewer."""
    count = min(count, len(images))
    return images.select(torch.arange(count) * len(images) // count)


def predict(graphs: Sequence[Path], images: Images) -> Tensor:
    """What onnxruntime says of every image: float32 (members, count, classes)."""
    return torch.stack([torch.from_numpy(run_graph(graph, images.pixels.numpy())) for graph in graphs])


def compare(float32: Tensor, int8: Tensor, labels: Tensor, calibration_images: int) -> Quantization:
    """What int8 changes in the average of the members.

    Args:
        float32: Probabilities (members, count, classes) before.
        int8: After.
        labels: int64 (count,).
        calibration_images: How many images int8 was calibrated on.
    """
    before, after = average(float32), average(int8)
    return Quantization(
        calibration_images=calibration_images,
        held_out_accuracy_before=measure(before, labels).accuracy,
        held_out_accuracy_after=measure(after, labels).accuracy,
        same_top_class=(before.argmax(dim=1) == after.argmax(dim=1)).double().mean().item(),
        largest_difference=(before - after).abs().max().item(),
    )


def require_small_loss(quantization: Quantization, images: int) -> None:
    """Find out whether int8 is worth serving.

    Raises:
        QuantizationError: It loses more than `MOST_ACCURACY_LOST`.
    """
    before, after = quantization.held_out_accuracy_before, quantization.held_out_accuracy_after
    if round(before - after, 9) > MOST_ACCURACY_LOST:  # rounded: the last bit of a share must not decide
        raise QuantizationError(
            f"int8 takes the ensemble from {before:.2%} to {after:.2%} on {images:,} held-out images; at most "
            f"{100 * MOST_ACCURACY_LOST:.2f} points may be lost. {quantization.same_top_class:.2%} keep their "
            f"class. Export it in float32"
        )
