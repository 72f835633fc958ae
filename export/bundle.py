"""A finished run, written as the next version of a model: `models/<name>/<version>/`."""

from __future__ import annotations

import base64
import errno
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from pydantic import ValidationError

from export.errors import BundleError
from export.expected import measure_expected
from export.folding import fold
from export.graph import ServedNetwork, write_graph
from export.manifest import (
    FORMAT_VERSION,
    Averaging,
    Expected,
    Figures,
    Manifest,
    Member,
    Parity,
    Quantization,
    SelfCheck,
    sha256_of,
    write_manifest,
)
from export.proof import make_inputs, prove_parity, run_graph
from export.quantization import quantize
from machine.problems import explain
from training.architectures import Shape
from training.checkpoint import CheckpointHeader
from training.dataset import Dataset
from training.run import PREDICTIONS_FILE, Run, RunSettings
from training.summary import MemberSummary, Predictions, Summary

SELF_CHECK_IMAGES = 8
SELF_CHECK_TOLERANCE = 1e-4
"""Twice what parity allows at most: another processor may add up in another order, a damaged weight shows more."""
SELF_CHECK_TOLERANCE_INT8 = 0.02
"""Sums of int8 products are the same everywhere, but the float32 steps between them need not be, and a value on
the edge is then rounded to its neighbour among 256: see docs/decisions/0009-int8-weights-have-seven-bits.md."""

MOST_VERSIONS_TAKEN = 10
"""How often another export may take the next version first, before this one gives up."""


def export_bundle(run: Run, name: str, models: Path, int8_data: Dataset | None = None) -> Path:
    """Write the next version of model `name`, proved, in one step.

    Args:
        run: A finished run.
        name: Of the model; lower-case letters, digits, dots, underscores and dashes.
        models: The folder of all models.
        int8_data: The images of the run, by which members are made int8; None leaves them float32.

    Returns:
        The bundle's folder.

    Raises:
        ExportError: A member is not the one that was measured, a proof fails, int8 loses too much, or the folder
            cannot be written. Nothing is left there.
        TrainingError: The run is not finished or damaged.
    """
    summary = run.read_summary()
    members = run.load_members()
    _require_measured([header for _, header in members], run.settings, summary)
    networks = [network for network, _ in members]
    shape = run.settings.image_shape
    try:
        place = models / name / str(next_version(models / name))
        with _unfinished_folder(models) as folder:
            graphs = [folder / f"member-{number}.onnx" for number in range(1, len(networks) + 1)]
            for network, graph in zip(networks, graphs, strict=True):
                write_graph(ServedNetwork(fold(network)), shape, graph)
            parity = prove_parity([ServedNetwork(network) for network in networks], graphs, shape)
            predictions, quantization = Predictions.load(run.folder / PREDICTIONS_FILE), None
            if int8_data is not None:
                summary, predictions, quantization = quantize(graphs, members, predictions, int8_data)
            expected = measure_expected(predictions.held_out)
            manifest = _describe(run.settings, summary, place, graphs, parity, quantization, expected)
            return _publish(manifest, folder, place.parent)
    except OSError as error:
        raise BundleError(f"{models / name} cannot be written: {error}") from error


def _require_measured(headers: Sequence[CheckpointHeader], settings: RunSettings, summary: Summary) -> None:
    """Find out whether members are those whose figures a run states, as far as their checkpoints tell.

    Raises:
        BundleError: One is another.
    """
    if len(summary.members) != len(headers):
        raise BundleError(f"the run has figures of {len(summary.members)} members, expected {len(headers)}")
    for number, (header, measured) in enumerate(zip(headers, summary.members, strict=True), start=1):
        came = _name_network(header.architecture, header.seed, header.image_shape, header.classes)
        classes = len(settings.class_labels)
        expected = _name_network(measured.architecture, measured.seed, settings.image_shape, classes)
        if came != expected:
            raise BundleError(f"the checkpoint of member {number} is {came}; the run's figures are of {expected}")


def _name_network(architecture: str, seed: int, shape: Shape, classes: int) -> str:
    channels, height, width = shape
    return f"{architecture} of seed {seed} for {channels}x{height}x{width} images of {classes} classes"


def next_version(model: Path) -> int:
    """One more than the highest version in a model's folder; 1 if there is none."""
    entries = model.iterdir() if model.is_dir() else iter(())
    return max((int(entry.name) for entry in entries if re.fullmatch(r"[1-9]\d*", entry.name)), default=0) + 1


def _describe(
    settings: RunSettings,
    summary: Summary,
    place: Path,
    graphs: Sequence[Path],
    parity: Parity,
    quantization: Quantization | None,
    expected: Expected,
) -> Manifest:
    ensemble = summary.ensemble
    channels, height, width = settings.image_shape
    try:
        return Manifest.model_validate(
            {
                "format_version": FORMAT_VERSION,
                "name": place.parent.name,
                "version": int(place.name),
                "class_labels": settings.class_labels,
                "input": {"channels": channels, "height": height, "width": width},
                "members": [_describe_member(*pair) for pair in zip(graphs, summary.members, strict=True)],
                "averaging": Averaging(temperature=ensemble.temperature),
                "held_out": Figures(**ensemble.held_out.model_dump()),
                "test": Figures(**ensemble.test.model_dump()),
                "recipe": settings.recipe.model_dump(mode="json")
                | {"data": settings.data, "data_sha256": settings.data_sha256},
                "parity": parity,
                "quantization": quantization,
                "expected": expected,
                "self_check": _make_self_check(
                    graphs,
                    settings.image_shape,
                    SELF_CHECK_TOLERANCE if quantization is None else SELF_CHECK_TOLERANCE_INT8,
                ),
                "tools": settings.tools | {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__},
            }
        )
    except ValidationError as error:
        raise BundleError(f"the bundle would not be valid: {explain(error)}") from error


def _describe_member(graph: Path, member: MemberSummary) -> Member:
    return Member(
        file=graph.name,
        sha256=sha256_of(graph),
        architecture=member.architecture,
        seed=member.seed,
        parameters=member.parameters,
        multiply_adds=member.multiply_adds,
        held_out_accuracy=member.held_out.accuracy,
    )


def _make_self_check(graphs: Sequence[Path], shape: Shape, tolerance: float) -> SelfCheck:
    pixels = make_inputs(SELF_CHECK_IMAGES, shape)
    outputs = np.stack([run_graph(graph, pixels) for graph in graphs])  # (members, images, classes)
    return SelfCheck(
        images=len(pixels),
        pixels_base64=base64.b64encode(pixels.tobytes()).decode(),
        member_probabilities=np.clip(outputs.astype(np.float64), 0, 1).round(7).tolist(),
        tolerance=tolerance,
    )


@contextmanager
def _unfinished_folder(models: Path) -> Iterator[Path]:
    """A new hidden folder, which readers pass over; removed unless it was moved away."""
    folder = models / f".unfinished-{uuid.uuid4().hex}"
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _publish(manifest: Manifest, folder: Path, model: Path) -> Path:
    """Move the finished bundle into place, as a later version if another export has taken its own meanwhile."""
    for _ in range(MOST_VERSIONS_TAKEN):
        try:
            return _move_into_place(manifest, folder, model / str(manifest.version))
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
        manifest = manifest.model_copy(update={"version": next_version(model)})
    return _move_into_place(manifest, folder, model / str(manifest.version))


def _move_into_place(manifest: Manifest, folder: Path, place: Path) -> Path:
    """Rename the bundle; whoever reads `place` finds nothing or all of it."""
    write_manifest(manifest, folder)
    for file in folder.iterdir():
        with file.open("rb") as written:
            os.fsync(written.fileno())
    place.parent.mkdir(exist_ok=True)
    return folder.rename(place)
