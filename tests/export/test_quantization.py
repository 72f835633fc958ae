"""An int8 bundle is measured as it is served, and refused if it lost too much."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from export import quantization
from export.__main__ import main
from export.bundle import export_bundle
from export.errors import QuantizationError
from export.folding import fold
from export.graph import ServedNetwork, write_graph
from export.manifest import INPUT_NAME, Manifest, Quantization, read_manifest
from export.proof import Pixels, make_inputs, run_graph
from export.quantization import compare, predict, quantize_graph, require_small_loss, spread
from serving.ensemble import Ensemble
from tests.digits import write_digits
from tests.networks import untrained_network
from training.architectures import ARCHITECTURES, Shape
from training.dataset import Dataset, Images
from training.evaluation import average, calibrate, fit_temperature, measure
from training.fit import main as fit
from training.run import Run
from training.sources import load_dataset


@pytest.fixture(scope="module")
def run(drawn_digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run of two small members that read the drawn digits."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    arguments = ["--data", str(drawn_digits), "--run", str(folder), "--architecture", "cnn_small"]
    assert fit([*arguments, "--epochs", "4", "--members", "2", "--precision", "float32"]) == 0
    return Run.open(folder)


@pytest.fixture(scope="module")
def dataset(drawn_digits: Path) -> Dataset:
    """What the run began with."""
    return load_dataset(drawn_digits)


@pytest.fixture(scope="module")
def folder(run: Run, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An int8 bundle of the run."""
    return export_bundle(run, "digits", tmp_path_factory.mktemp("models"), dataset)


def noise(count: int, shape: Shape = (1, 28, 28)) -> Images:
    """Images of no class."""
    return Images(torch.from_numpy(make_inputs(count, shape)), torch.zeros(count, dtype=torch.int64))


def write_int8(architecture: str, path: Path, shape: Shape = (1, 28, 28)) -> Path:
    """Write the graph of an untrained member in int8."""
    write_graph(ServedNetwork(fold(untrained_network(architecture, shape))), shape, path)
    quantize_graph(path, noise(64, shape))
    return path


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An untrained member of every architecture in int8."""
    folder = tmp_path_factory.mktemp("members")
    return {name: write_int8(name, folder / f"{name}.onnx") for name in ARCHITECTURES}


def test_what_onnxruntime_cannot_make_int8_is_said(tmp_path: Path) -> None:
    (tmp_path / "member-1.onnx").write_bytes(b"no graph")
    with pytest.raises(QuantizationError, match=r"onnxruntime cannot make member-1\.onnx int8: "):
        quantize_graph(tmp_path / "member-1.onnx", noise(64))


def weights_of(model: onnx.ModelProto, operation: str) -> list[npt.NDArray[Any]]:
    """Weights of all convolutions or dense layers in order, as they are stored."""
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    sources = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    names = [node.input[1] for node in model.graph.node if node.op_type == operation]
    return [stored[sources.get(name, name)] for name in names]


def graphs_of(folder: Path, manifest: Manifest) -> list[Path]:
    return [folder / member.file for member in manifest.members]


def copy_run(run: Run, data_path: Path, folder: Path) -> Path:
    """Copy a run, so that it looks for its images at `data_path`."""
    shutil.copytree(run.folder, folder)
    settings = json.loads((folder / "settings.json").read_text()) | {"data_path": str(data_path)}
    (folder / "settings.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_layers_have_integer_weights_that_cannot_overflow(architecture: str, members: dict[str, Path]) -> None:
    """All but the convolution that reads the image; two products of 255 and 64 fit into 16 bits."""
    model = onnx.load(members[architecture])
    first, *convolutions = weights_of(model, "Conv") or [np.empty(0, np.float32)]
    dense = weights_of(model, "Gemm")
    assert first.dtype == np.float32
    assert dense
    assert {weights.dtype for weights in (*convolutions, *dense)} == {np.dtype(np.int8)}
    assert max(np.abs(weights.astype(int)).max() for weights in (*convolutions, *dense)) <= 64


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_integer_kernels_compute_what_the_graph_says(architecture: str, members: dict[str, Path]) -> None:
    """Without optimizations onnxruntime computes in float32 what it otherwise computes in integers."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    plain = onnxruntime.InferenceSession(members[architecture], options)
    pixels = make_inputs(32, (1, 28, 28), seed=3)
    (expected,) = plain.run(None, {INPUT_NAME: pixels})
    assert np.abs(run_graph(members[architecture], pixels) - expected).max() <= 0.02


def test_logits_are_not_rounded(members: dict[str, Path]) -> None:
    nodes = onnx.load(members["cnn_slim"]).graph.node
    (softmax,) = [node for node in nodes if node.op_type == "Softmax"]
    (before,) = [node for node in nodes if softmax.input[0] in node.output]
    assert before.op_type == "Gemm"


def test_colour_images_of_another_size(tmp_path: Path) -> None:
    outputs = run_graph(
        write_int8("cnn_blocks", tmp_path / "member.onnx", (3, 32, 24)), make_inputs(5, (3, 32, 24))
    )
    assert outputs.shape == (5, 10)
    assert outputs.sum(axis=1) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("count", "expected"), [(4, [0, 2, 5, 7]), (10, [*range(10)]), (512, [*range(10)])])
def test_calibration_images_are_evenly_spaced(count: int, expected: list[int]) -> None:
    images = Images(torch.zeros(10, 1, 2, 2, dtype=torch.uint8), torch.arange(10))
    assert spread(images, count).labels.tolist() == expected


def test_int8_is_compared_with_float32_on_the_average() -> None:
    """Two members, four images of class 0: averages (0.7, 0.6, 0.4, 0.8) become (0.7, 0.45, 0.6, 0.8)."""
    before, after = (
        torch.tensor([[0.9, 0.7, 0.5, 0.8], [0.5, 0.5, 0.3, 0.8]]),
        torch.tensor([[0.7, 0.45, 0.6, 0.8]]),
    )
    found = compare(
        torch.stack([before, 1 - before], dim=2),
        torch.stack([after, 1 - after], dim=2),
        torch.zeros(4, dtype=torch.int64),
        calibration_images=7,
    )
    assert (found.held_out_accuracy_before, found.held_out_accuracy_after) == (0.75, 0.75)
    assert found.same_top_class == 0.5
    assert found.largest_difference == pytest.approx(0.2)
    assert found.calibration_images == 7


def loss(before: float, after: float) -> Quantization:
    return Quantization(
        calibration_images=512,
        held_out_accuracy_before=before,
        held_out_accuracy_after=after,
        same_top_class=0.9986,
        largest_difference=0.5,
    )


@pytest.mark.parametrize("after", [0.9968, 0.9964, 0.9959])
def test_up_to_a_twentieth_of_a_point_may_be_lost(after: float) -> None:
    require_small_loss(loss(0.9964, after), 10_000)


def test_what_loses_more_is_refused_with_its_figures() -> None:
    message = (
        "int8 takes the ensemble from 99.64% to 99.58% on 5,000 held-out images; at most 0.05 points may be lost. "
        "99.86% keep their class"
    )
    with pytest.raises(QuantizationError, match=re.escape(message)):
        require_small_loss(loss(0.9964, 0.9958), 5000)


def test_the_figures_are_those_of_what_is_served(folder: Path, run: Run, dataset: Dataset) -> None:
    manifest, summary = read_manifest(folder), run.read_summary()
    graphs = graphs_of(folder, manifest)
    labels = dataset.held_out.labels
    held_out, test = (predict(graphs, images) for images in (dataset.held_out, dataset.test))
    temperature = fit_temperature(average(held_out), labels)
    assert manifest.averaging.temperature == temperature
    assert (
        manifest.held_out.model_dump() == measure(calibrate(average(held_out), temperature), labels).model_dump()
    )
    expected = measure(calibrate(average(test), temperature), dataset.test.labels)
    assert manifest.test.model_dump() == expected.model_dump()
    assert expected.nll != summary.ensemble.test.nll
    for member, probabilities in zip(manifest.members, held_out, strict=True):
        assert member.held_out_accuracy == measure(probabilities, labels).accuracy
    cost = manifest.quantization
    assert cost is not None
    assert (cost.precision, cost.calibration_images) == ("int8", 512)
    assert cost.held_out_accuracy_before == summary.ensemble.held_out.accuracy
    assert cost.held_out_accuracy_after == manifest.held_out.accuracy
    assert cost.same_top_class == 1
    assert 0 < cost.largest_difference < 0.1


def test_the_self_check_is_of_what_is_served(folder: Path) -> None:
    """The server replays it when it loads the bundle."""
    manifest = read_manifest(folder)
    check = manifest.self_check
    pixels: Pixels = np.frombuffer(check.pixels, np.uint8).reshape(check.images, 1, 28, 28)
    outputs = np.stack([run_graph(graph, pixels) for graph in graphs_of(folder, manifest)])
    assert np.abs(outputs - np.array(check.member_probabilities)).max() <= 1e-6
    assert check.tolerance == 0.02
    assert Ensemble(folder, "cpu").manifest == manifest


def test_the_command_prints_what_int8_cost(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(run.folder), "--name", "digits", "--models", str(tmp_path), "--precision", "int8"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert re.search(
        r"within \d.\de-\d+ of torch, then made int8: held-out accuracy from 100.00% to 100.00%, "
        r"100.00% of the images keep their class, test accuracy",
        printed,
    )


def test_an_ensemble_that_loses_is_refused_and_nothing_is_written(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Calibrated on black images, ranges are far too small for digits."""
    black = Images(torch.zeros(4, 1, 28, 28, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64))
    monkeypatch.setattr(quantization, "spread", lambda *_: black)
    arguments = [str(run.folder), "--name", "digits", "--models", str(tmp_path), "--precision", "int8"]
    assert main(arguments) == 1
    message = r"QuantizationError: int8 takes the ensemble from 100.00% to \d\d?.\d\d% on 60 held-out images"
    assert re.search(message, capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []


def test_what_is_refused_has_not_seen_the_test_images(
    run: Run, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """These could not be predicted: they are of another size."""
    monkeypatch.setattr(quantization, "MOST_ACCURACY_LOST", -1.0)
    unseen = dataclasses.replace(dataset, test=noise(10, (1, 5, 5)))
    with pytest.raises(QuantizationError):
        export_bundle(run, "digits", tmp_path, unseen)


def test_images_that_have_moved_are_named(
    run: Run, drawn_digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = copy_run(run, tmp_path / "gone", tmp_path / "run")
    arguments = [str(moved), "--name", "digits", "--models", str(tmp_path / "models"), "--precision", "int8"]
    assert main(arguments) == 1
    assert f"which are not at {tmp_path / 'gone'}; name them with --data" in capsys.readouterr().err
    assert main([*arguments, "--data", str(drawn_digits)]) == 0
    assert read_manifest(tmp_path / "models" / "digits" / "1").quantization is not None


def test_other_images_are_refused(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    others = write_digits(tmp_path / "others", train=600, test=100)
    arguments = [str(run.folder), "--name", "digits", "--models", str(tmp_path / "models"), "--precision", "int8"]
    assert main([*arguments, "--data", str(others)]) == 1
    assert f"are not the images that {run.folder} began with" in capsys.readouterr().err
    assert not (tmp_path / "models").exists()
