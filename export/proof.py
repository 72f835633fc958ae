"""Proofs that a graph computes what was trained, on inputs that are made here.

No data set is needed, and none ends up in a bundle: the inputs are noise from coarse to fine on dark and on
light ground, which stirs every filter of a network more evenly than photographs or digits do.
"""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch

from export.errors import ProofError
from export.graph import ServedNetwork
from export.manifest import INPUT_NAME, OUTPUT_NAME, Parity
from training.architectures import Shape
from training.evaluation import images_at_once

BATCH_SIZES = (1, 2, 7, 256)
LIMIT = 1e-5
"""Largest difference that is accepted where torch itself rounds by less than a third of that."""
LARGEST_LIMIT = 5e-5
"""The same of any network: half of what the self-check of a bundle allows another processor."""

Pixels = npt.NDArray[np.uint8]
Probabilities = npt.NDArray[np.float32]


def make_inputs(count: int, shape: Shape, seed: int = 0) -> Pixels:
    """Noise images of several coarsenesses, brightnesses and contrasts: uint8 (count, *shape)."""
    generator = np.random.default_rng(seed)
    channels, height, width = shape
    images = np.empty((count, *shape), np.uint8)
    for index in range(count):
        cell = 2 ** (index % 4)  # pixels a side that share a value: 1, 2, 4, 8
        coarse = generator.random((channels, -(-height // cell), -(-width // cell)))
        fine = coarse.repeat(cell, axis=1).repeat(cell, axis=2)[:, :height, :width]
        low, high = np.sort(generator.uniform(0, 256, size=2))
        images[index] = low + fine * (high - low)
    return images


def run_graph(path: Path, pixels: Pixels) -> Probabilities:
    """Run an ONNX file in onnxruntime on the CPU: uint8 (n, c, h, w) to float32 (n, classes).

    Raises:
        ProofError: onnxruntime cannot.
    """
    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        answers = [session.run([OUTPUT_NAME], {INPUT_NAME: batch})[0] for batch in _split(pixels)]
    except Exception as error:  # onnxruntime's own exceptions share no base class but this
        raise ProofError(f"onnxruntime does not run {path.name}: {error}") from error
    return np.concatenate(answers)


def prove_parity(networks: list[ServedNetwork], graphs: list[Path], shape: Shape) -> Parity:
    """Compare torch with onnxruntime, member by member, at several batch sizes.

    Raises:
        ProofError: A probability differs by more than `limit_for` accepts, or onnxruntime does not run a graph.
    """
    largest, limit = 0.0, LIMIT
    for network, graph in zip(networks, graphs, strict=True):
        for size in BATCH_SIZES:
            pixels = make_inputs(size, shape, seed=size)
            expected = run_torch(network, pixels)
            difference = float(np.abs(expected - run_graph(graph, pixels)).max())
            accepted = limit_for(float(np.abs(expected - run_exactly(network, pixels)).max()))
            if not difference <= accepted:  # also catches NaN
                raise ProofError(
                    f"{graph.name}: onnxruntime differs from torch by {difference:.2e} at batch {size}; "
                    f"at most {accepted:.0e} is accepted"
                )
            largest, limit = max(largest, difference), max(limit, accepted)
    return Parity(batch_sizes=BATCH_SIZES, limit=limit, largest_difference=largest)


def limit_for(rounding: float) -> float:
    """Largest difference accepted of a network whose own float32 is off the exact result by so much at most.

    Networks with large weights round by more; torch and onnxruntime, each on its way, by about as much.
    """
    return min(max(LIMIT, 3 * rounding), LARGEST_LIMIT)


def run_torch(network: ServedNetwork, pixels: Pixels) -> Probabilities:
    """Run a network in torch: uint8 (n, c, h, w) to float32 (n, classes)."""
    with torch.inference_mode():
        batches = [network.eval()(torch.from_numpy(batch)) for batch in _split(pixels)]
    return torch.cat(batches).numpy()


def run_exactly(network: ServedNetwork, pixels: Pixels) -> npt.NDArray[np.float64]:
    """Run a network in float64, whose rounding does not count here: uint8 (n, c, h, w) to float64 (n, classes)."""
    exact = copy.deepcopy(network.network).double().eval()
    with torch.inference_mode():
        batches = [exact(torch.from_numpy(batch).double()).softmax(dim=1) for batch in _split(pixels)]
    return torch.cat(batches).numpy()


def _split(pixels: Pixels) -> list[Pixels]:
    size = images_at_once(pixels.shape)
    return [pixels[start : start + size] for start in range(0, len(pixels), size)]
