"""Bundles whose answers are known beforehand, made without training."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.manifest import INPUT_NAME, OUTPUT_NAME, Manifest, sha256_of, write_manifest
from export.proof import make_inputs, run_graph

FIGURES = {"count": 100, "accuracy": 0.9, "accuracy_interval": (0.82, 0.95), "nll": 0.3, "ece": 0.02}


@dataclass(frozen=True)
class StubMember:
    """A network that gives `probabilities` for a black image; a bright one adds `tilt` to the logits.

    The logits are ln(probabilities) + tilt * mean(pixels) / 255.
    """

    probabilities: Sequence[float]
    tilt: Sequence[float] | None = None

    def answer(self, brightness: float) -> np.ndarray[Any, np.dtype[np.float64]]:
        """What it says of an image of one brightness, 0..1."""
        logits = np.log(np.array(self.probabilities)) + brightness * np.array(
            self.tilt or [0.0] * len(self.probabilities)
        )
        powers = np.exp(logits)
        answer: np.ndarray[Any, np.dtype[np.float64]] = powers / powers.sum()
        return answer


TWO_MEMBERS = (StubMember((0.7, 0.2, 0.1)), StubMember((0.1, 0.5, 0.4)))
"""Their average is (0.4, 0.35, 0.25); the members disagree."""


def write_bundle(
    models: Path,
    members: Sequence[StubMember] = TWO_MEMBERS,
    *,
    name: str = "stub",
    version: int = 1,
    shape: tuple[int, int, int] = (1, 4, 4),
    temperature: float = 1.0,
    expected: dict[str, Any] | None = None,
) -> Path:
    """Write a bundle of stub members, valid in every respect; gives its folder."""
    folder = models / name / str(version)
    folder.mkdir(parents=True)
    files = [folder / f"member-{number}.onnx" for number in range(1, len(members) + 1)]
    for file, member in zip(files, members, strict=True):
        onnx.save(stub_graph(member, shape), file)
    pixels = make_inputs(2, shape)
    outputs = np.stack([run_graph(file, pixels) for file in files])
    channels, height, width = shape
    manifest = Manifest.model_validate(
        {
            "format_version": 1,
            "name": name,
            "version": version,
            "class_labels": [f"class {index}" for index in range(len(members[0].probabilities))],
            "input": {"channels": channels, "height": height, "width": width},
            "members": [
                {
                    "file": file.name,
                    "sha256": sha256_of(file),
                    "architecture": "stub",
                    "seed": number,
                    "parameters": 3,
                    "multiply_adds": 48,
                    "held_out_accuracy": 0.9,
                }
                for number, file in enumerate(files, start=1)
            ],
            "averaging": {"temperature": temperature},
            "held_out": FIGURES,
            "test": FIGURES,
            "recipe": {"name": "stub"},
            "parity": {"batch_sizes": [1], "limit": 1e-5, "largest_difference": 0.0},
            "self_check": {
                "images": len(pixels),
                "pixels_base64": base64.b64encode(pixels.tobytes()).decode(),
                "member_probabilities": np.clip(outputs.astype(float), 0, 1).tolist(),
                "tolerance": 1e-4,
            },
            "tools": {},
            "expected": expected,
        }
    )
    write_manifest(manifest, folder)
    return folder


def stub_graph(member: StubMember, shape: tuple[int, int, int]) -> onnx.ModelProto:
    """The ONNX graph of a stub member."""
    size, classes = int(np.prod(shape)), len(member.probabilities)
    tilt = np.array(member.tilt or [0.0] * classes, np.float32)
    weights = np.tile(tilt / (255 * size), (size, 1)).astype(np.float32)  # (pixels, classes)
    bias = np.log(np.array(member.probabilities, np.float32))
    graph = helper.make_graph(
        [
            helper.make_node("Cast", [INPUT_NAME], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("Flatten", ["floats"], ["flat"]),
            helper.make_node("Gemm", ["flat", "weights", "bias"], ["logits"]),
            helper.make_node("Softmax", ["logits"], [OUTPUT_NAME], axis=1),
        ],
        "stub",
        [helper.make_tensor_value_info(INPUT_NAME, TensorProto.UINT8, ["batch", *shape])],
        [helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, ["batch", classes])],
        [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(bias, "bias")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
