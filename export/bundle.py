"""A finished run, written as the next version of a model: `models/<name>/<version>/`."""

from __future__ import annotations

import base64
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
from export.graph import ServedNetwork, write_graph
from export.manifest import (
    FORMAT_VERSION,
    Averaging,
    Figures,
    Manifest,
    Member,
    Parity,
    SelfCheck,
    explain,
    sha256_of,
    write_manifest,
)
from export.proof import make_inputs, prove_parity, run_graph
from training.run import Run, RunSettings
from training.summary import MemberSummary, Summary

SELF_CHECK_IMAGES = 8
SELF_CHECK_TOLERANCE = 1e-4
"""Ten times what parity allows: another processor may add up in another order, a damaged weight shows more."""


def export_bundle(run: Run, name: str, models: Path) -> Path:
    """Write the next version of model `name`, proved, in one step.

    Args:
        run: A finished run.
        name: Of the model; lower-case letters, digits, dots, underscores and dashes.
        models: The folder of all models.

    Returns:
        The bundle's folder.

    Raises:
        ExportError: A proof fails or the folder cannot be written. Nothing is left there.
        TrainingError: The run is not finished or damaged.
    """
    summary = run.read_summary()
    networks = [ServedNetwork(network) for network, _ in run.load_members()]
    shape = run.settings.image_shape
    place = models / name / str(next_version(models / name))
    try:
        with _unfinished_folder(models) as folder:
            graphs = [folder / f"member-{number}.onnx" for number in range(1, len(networks) + 1)]
            for network, graph in zip(networks, graphs, strict=True):
                write_graph(network, shape, graph)
            parity = prove_parity(networks, graphs, shape)
            manifest = _describe(run.settings, summary, place, graphs, parity)
            write_manifest(manifest, folder)
            return _move_into_place(folder, place)
    except OSError as error:
        raise BundleError(f"{models / name} cannot be written: {error}") from error


def next_version(model: Path) -> int:
    """One more than the highest version in a model's folder; 1 if there is none."""
    entries = model.iterdir() if model.is_dir() else iter(())
    return max((int(entry.name) for entry in entries if re.fullmatch(r"[1-9]\d*", entry.name)), default=0) + 1


def _describe(
    settings: RunSettings, summary: Summary, place: Path, graphs: Sequence[Path], parity: Parity
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
                "self_check": _make_self_check(graphs, settings.image_shape),
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


def _make_self_check(graphs: Sequence[Path], shape: tuple[int, int, int]) -> SelfCheck:
    pixels = make_inputs(SELF_CHECK_IMAGES, shape)
    outputs = np.stack([run_graph(graph, pixels) for graph in graphs])  # (members, images, classes)
    return SelfCheck(
        images=len(pixels),
        pixels_base64=base64.b64encode(pixels.tobytes()).decode(),
        member_probabilities=np.clip(outputs.astype(np.float64), 0, 1).round(7).tolist(),
        tolerance=SELF_CHECK_TOLERANCE,
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


def _move_into_place(folder: Path, place: Path) -> Path:
    """Rename the finished bundle; whoever reads `place` finds nothing or all of it."""
    for file in folder.iterdir():
        with file.open("rb") as written:
            os.fsync(written.fileno())
    place.parent.mkdir(exist_ok=True)
    return folder.rename(place)
