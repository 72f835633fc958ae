"""A bundle is written whole and proved, or not at all."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

from export import bundle, proof
from export.__main__ import main
from export.bundle import export_bundle, next_version
from export.errors import BundleError, ExportError, GraphError, ProofError
from export.expected import measure_expected
from export.graph import OPSET, ServedNetwork, save_graph, write_graph
from export.manifest import INPUT_NAME, OUTPUT_NAME, Expected, read_manifest
from export.proof import BATCH_SIZES, make_inputs, prove_parity, run_graph, run_torch
from tests.networks import untrained_network
from training.architectures import ARCHITECTURES
from training.checkpoint import save_checkpoint
from training.errors import RunError
from training.fit import main as fit
from training.run import SUMMARY_FILE, Run

SHAPE = (1, 28, 28)
LARGE = 32
"""What makes the logits of a linear network so large that float32 shows."""


def served(architecture: str = "cnn_slim", shape: tuple[int, int, int] = SHAPE, seed: int = 0) -> ServedNetwork:
    """An untrained network as it is served."""
    return ServedNetwork(untrained_network(architecture, shape, seed))


@pytest.fixture(scope="module")
def run(drawn_digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run of two small members."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    arguments = ["--data", str(drawn_digits), "--run", str(folder), "--architecture", "linear"]
    assert fit([*arguments, "--epochs", "1", "--members", "2"]) == 0
    return Run.open(folder)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_computes_the_same_in_onnxruntime(architecture: str, tmp_path: Path) -> None:
    network = served(architecture)
    write_graph(network, SHAPE, tmp_path / "member.onnx")
    parity = prove_parity([network], [tmp_path / "member.onnx"], SHAPE)
    assert parity.largest_difference <= 1e-5
    assert parity.batch_sizes == BATCH_SIZES == (1, 2, 7, 256)


def test_colour_images_of_another_size(tmp_path: Path) -> None:
    network = served(shape=(3, 32, 24))
    write_graph(network, (3, 32, 24), tmp_path / "member.onnx")
    pixels = make_inputs(3, (3, 32, 24))
    assert np.allclose(run_graph(tmp_path / "member.onnx", pixels), run_torch(network, pixels), atol=1e-5)


def test_the_graph_is_one_file_with_a_dynamic_batch_and_no_trace_of_its_origin(tmp_path: Path) -> None:
    write_graph(served(), SHAPE, tmp_path / "member.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["member.onnx"]
    content = (tmp_path / "member.onnx").read_bytes()
    assert str(Path(bundle.__file__).parents[1]).encode() not in content
    assert b"stack_trace" not in content
    session = onnxruntime.InferenceSession(tmp_path / "member.onnx")
    (pixels,), (probabilities,) = session.get_inputs(), session.get_outputs()
    assert (pixels.name, pixels.type, pixels.shape) == ("pixels", "tensor(uint8)", ["batch", 1, 28, 28])
    assert (probabilities.name, probabilities.type) == ("probabilities", "tensor(float)")


def test_outputs_are_probabilities(tmp_path: Path) -> None:
    write_graph(served(), SHAPE, tmp_path / "member.onnx")
    outputs = run_graph(tmp_path / "member.onnx", make_inputs(16, SHAPE))
    assert np.allclose(outputs.sum(axis=1), 1, atol=1e-5)
    assert outputs.min() >= 0


def test_a_graph_of_other_weights_fails_the_proof(tmp_path: Path) -> None:
    write_graph(served(seed=1), SHAPE, tmp_path / "member.onnx")
    with pytest.raises(ProofError, match=r"member.onnx: onnxruntime differs from torch by \d"):
        prove_parity([served(seed=2)], [tmp_path / "member.onnx"], SHAPE)


def test_a_graph_that_the_checker_refuses_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise onnx.checker.ValidationError("bad node")

    monkeypatch.setattr(onnx.checker, "check_model", refuse)
    with pytest.raises(GraphError, match=r"member.onnx cannot be written: bad node"):
        write_graph(served("linear"), SHAPE, tmp_path / "member.onnx")


def bad_graph(output: str = OUTPUT_NAME, axis: int = 1, classes: int = 10) -> onnx.ModelProto:
    """A graph whose softmax is over 784 pixels, whatever it states of its output."""
    nodes = [
        onnx.helper.make_node("Cast", [INPUT_NAME], ["floats"], to=onnx.TensorProto.FLOAT),
        onnx.helper.make_node("Flatten", ["floats"], ["flat"]),
        onnx.helper.make_node("Softmax", ["flat"], [output], axis=axis),
    ]
    pixels = onnx.helper.make_tensor_value_info(INPUT_NAME, onnx.TensorProto.UINT8, ["batch", *SHAPE])
    probabilities = onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, ["batch", classes])
    graph = onnx.helper.make_graph(nodes, "bad", [pixels], [probabilities])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=10)


def test_a_graph_whose_shapes_do_not_fit_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match=r"member.onnx cannot be written: .*\(784\) vs \(10\)"):
        save_graph(bad_graph(), tmp_path / "member.onnx")


@pytest.mark.parametrize(
    "content",
    [
        b"no graph",
        bad_graph(axis=7, classes=784).SerializeToString(),
        bad_graph(output="scores", classes=784).SerializeToString(),
    ],
    ids=["content", "node", "output"],
)
def test_a_graph_that_onnxruntime_does_not_run_is_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "member.onnx").write_bytes(content)
    with pytest.raises(ProofError, match=r"onnxruntime does not run member.onnx: "):
        run_graph(tmp_path / "member.onnx", make_inputs(1, SHAPE))


def test_a_self_check_allows_more_than_the_proof() -> None:
    assert bundle.SELF_CHECK_TOLERANCE >= 2 * proof.LARGEST_LIMIT


def test_inputs_of_the_proof_are_varied_and_the_same_each_time() -> None:
    first, second = make_inputs(64, SHAPE), make_inputs(64, SHAPE)
    assert np.array_equal(first, second)
    assert first.dtype == np.uint8
    assert len(np.unique(first.reshape(64, -1), axis=0)) == 64
    assert first.min() < 10
    assert first.max() > 245


def test_a_bundle_says_all_that_the_run_knows(run: Run, tmp_path: Path) -> None:
    folder = export_bundle(run, "digits", tmp_path / "models")
    assert folder == tmp_path / "models" / "digits" / "1"
    manifest = read_manifest(folder)
    summary = run.read_summary()
    assert [member.seed for member in manifest.members] == [1001, 1002]
    assert [member.multiply_adds for member in manifest.members] == [7840, 7840]
    assert manifest.test.accuracy == summary.ensemble.test.accuracy
    assert manifest.held_out.nll == summary.ensemble.held_out.nll
    assert manifest.averaging.temperature == summary.ensemble.temperature
    assert manifest.recipe["architectures"] == ["linear"]
    assert manifest.quantization is None
    assert manifest.expected is not None
    assert (manifest.expected.images, len(manifest.expected.class_shares)) == (manifest.held_out.count, 10)
    assert manifest.self_check.tolerance == 1e-4
    assert set(manifest.tools) == {"python", "torch", "onnx", "onnxruntime"}
    names = {file.name for file in folder.iterdir()}
    assert names == {"manifest.json", "member-1.onnx", "member-2.onnx"}


def test_each_export_is_the_next_version(run: Run, tmp_path: Path) -> None:
    assert [export_bundle(run, "digits", tmp_path).name for _ in range(2)] == ["1", "2"]
    (tmp_path / "digits" / "41").mkdir()
    (tmp_path / "digits" / "notes").mkdir()
    assert next_version(tmp_path / "digits") == 42


def test_two_exports_at_once_become_two_versions(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second finishes while the first is at work."""

    def finish_another(held_out: Tensor) -> Expected:
        monkeypatch.setattr(bundle, "measure_expected", measure_expected)
        assert export_bundle(run, "digits", tmp_path).name == "1"
        return measure_expected(held_out)

    monkeypatch.setattr(bundle, "measure_expected", finish_another)
    folder = export_bundle(run, "digits", tmp_path)
    assert (folder.name, read_manifest(folder).version) == ("2", 2)
    assert read_manifest(tmp_path / "digits/1").version == 1
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["digits"]


def test_an_export_gives_up_where_every_version_is_taken(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_bundle(run, "digits", tmp_path)
    monkeypatch.setattr(bundle, "next_version", lambda _: 1)
    with pytest.raises(BundleError, match=r"digits cannot be written: .*Directory not empty"):
        export_bundle(run, "digits", tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["digits"]


@pytest.mark.parametrize(
    ("rounding", "accepted"), [(0.0, 1e-5), (3e-6, 1e-5), (1e-5, 3e-5), (1e-3, 5e-5), (float("nan"), 1e-5)]
)
def test_a_network_that_rounds_more_may_differ_more_up_to_a_limit(rounding: float, accepted: float) -> None:
    assert proof.limit_for(rounding) == pytest.approx(accepted)


def test_a_network_of_large_weights_is_proved_by_its_own_rounding(tmp_path: Path) -> None:
    network = served("linear")
    with torch.no_grad():
        for weights in network.parameters():
            weights.mul_(LARGE)
    write_graph(network, SHAPE, tmp_path / "member.onnx")
    parity = prove_parity([network], [tmp_path / "member.onnx"], SHAPE)
    assert parity.limit > 1e-5
    assert parity.largest_difference <= parity.limit


def test_an_exact_run_is_what_float32_comes_close_to() -> None:
    network, pixels = served(), make_inputs(7, SHAPE)
    exact = proof.run_exactly(network, pixels)
    assert exact.dtype == np.float64
    assert exact.sum(axis=1) == pytest.approx(1, abs=1e-12)
    assert 0 < np.abs(exact - run_torch(network, pixels)).max() < 1e-6
    assert run_torch(network, pixels).dtype == np.float32, "the network itself stays as it was"


@pytest.mark.parametrize("limit", [0.0, float("nan")])
def test_nothing_is_written_if_a_proof_fails(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: float
) -> None:
    monkeypatch.setattr(proof, "limit_for", lambda _: limit)
    with pytest.raises(ExportError):
        export_bundle(run, "digits", tmp_path / "models")
    assert list((tmp_path / "models").iterdir()) == []


def test_a_run_without_summary_is_not_exported(run: Run, tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text((run.folder / "settings.json").read_text())
    with pytest.raises(RunError, match=f"has no summary.*--resume {re.escape(str(tmp_path))}"):
        export_bundle(Run.open(tmp_path), "digits", tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_the_command_prints_what_it_proved(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run.folder), "--name", "digits", "--models", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"digits/1: 2 members, 0\.\d MB, onnxruntime within \d.\de-\d+ of torch", printed)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere", "--name", "digits"], 1, "RunError: nowhere holds no run"),
        (["nowhere", "--name", "Digits!"], 2, "name: String should match pattern"),
    ],
)
def test_the_command_explains_what_is_wrong(
    arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == code
    assert message in capsys.readouterr().err


def test_a_damaged_member_is_not_exported(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("settings.json", SUMMARY_FILE):
        (tmp_path / name).write_text((run.folder / name).read_text())
    assert main([str(tmp_path), "--name", "digits", "--models", str(tmp_path / "models")]) == 1
    assert "CheckpointError" in capsys.readouterr().err
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("change", "came"),
    [
        ({"architecture": "cnn_small"}, "cnn_small of seed 1002 for 1x28x28 images of 10 classes"),
        ({"seed": 7}, "linear of seed 7 for 1x28x28 images of 10 classes"),
        ({"image_shape": (1, 14, 56)}, "linear of seed 1002 for 1x14x56 images of 10 classes"),
        ({"classes": 9}, "linear of seed 1002 for 1x28x28 images of 9 classes"),
    ],
)
def test_a_member_that_was_exchanged_is_not_exported(
    run: Run, tmp_path: Path, change: dict[str, Any], came: str
) -> None:
    """The bundle would state figures that another network had."""
    shutil.copytree(run.folder, tmp_path / "run")
    _, header = run.load_members()[1]
    other = header.model_copy(update=change)
    save_checkpoint(tmp_path / "run/member-2/checkpoint.safetensors", other.build(), other)
    expected = "linear of seed 1002 for 1x28x28 images of 10 classes"
    message = f"the checkpoint of member 2 is {came}; the run's figures are of {expected}"
    with pytest.raises(BundleError, match=re.escape(message)):
        export_bundle(Run.open(tmp_path / "run"), "digits", tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_figures_of_another_number_of_members_are_not_exported(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.folder, tmp_path / "run")
    summary = run.read_summary()
    fewer = summary.model_copy(update={"members": summary.members[:1]})
    (tmp_path / "run" / SUMMARY_FILE).write_text(fewer.model_dump_json())
    with pytest.raises(BundleError, match="the run has figures of 1 members, expected 2"):
        export_bundle(Run.open(tmp_path / "run"), "digits", tmp_path / "models")
