"""A bundle is proved when it is loaded: schema, checksums, signature, self-check, provider."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import structlog

from export.manifest import MANIFEST_FILE, sha256_of
from serving.ensemble import Ensemble, Pixels, load_ensemble
from serving.errors import BundleRefused, ProviderInactive
from serving.providers import EXECUTIONS, open_session, require_provider
from tests.bundles import StubMember, stub_graph, write_bundle


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_bundle(tmp_path)


def change_manifest(folder: Path, change: Any) -> None:
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    change(manifest)
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest))


def replace_member(folder: Path, graph: onnx.ModelProto) -> None:
    """Exchange the first member, with a checksum that fits."""
    onnx.save(graph, folder / "member-1.onnx")
    sha256 = sha256_of(folder / "member-1.onnx")
    change_manifest(folder, lambda manifest: manifest["members"][0].update(sha256=sha256))


def load(folder: Path) -> Ensemble:
    return Ensemble(folder, "cpu")


def test_members_answer_in_order_image_by_image(folder: Path) -> None:
    ensemble = load(folder)
    found = np.stack([ensemble.run_member(member, np.zeros((3, 1, 4, 4), np.uint8)) for member in range(2)])
    assert found.shape == (2, 3, 3)
    assert found.dtype == np.float32
    assert found[0, 2] == pytest.approx([0.7, 0.2, 0.1])
    assert found[1, 0] == pytest.approx([0.1, 0.5, 0.4])


def test_a_truncated_member_is_refused(folder: Path) -> None:
    file = folder / "member-2.onnx"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(BundleRefused, match=r"stub/1: member-2.onnx has sha256 .* damaged or was exchanged"):
        load(folder)


def test_a_missing_member_is_refused(folder: Path) -> None:
    (folder / "member-2.onnx").unlink()
    with pytest.raises(BundleRefused, match=r"stub/1: member-2.onnx is not a regular file"):
        load(folder)


def test_a_member_that_lies_elsewhere_is_refused(folder: Path) -> None:
    elsewhere = (folder / "member-2.onnx").rename(folder.parents[1] / "elsewhere.onnx")
    (folder / "member-2.onnx").symlink_to(elsewhere)
    with pytest.raises(BundleRefused, match=r"stub/1: member-2.onnx is not a regular file"):
        load(folder)


def test_what_is_no_graph_is_refused(folder: Path) -> None:
    (folder / "member-1.onnx").write_bytes(b"not a graph")
    sha256 = sha256_of(folder / "member-1.onnx")
    change_manifest(folder, lambda manifest: manifest["members"][0].update(sha256=sha256))
    with pytest.raises(BundleRefused, match=r"member-1.onnx cannot be loaded"):
        load(folder)


@pytest.mark.parametrize("location", ["../../weights", "weights"])
def test_weights_outside_the_graph_are_refused(
    folder: Path, location: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ONNX file may name another file for its weights; none of ours does, and no other file is read."""
    monkeypatch.chdir(folder)
    graph = stub_graph(StubMember((0.7, 0.2, 0.1)), (1, 4, 4))
    weights = graph.graph.initializer[0]
    (folder / location).resolve().write_bytes(weights.raw_data)
    weights.ClearField("raw_data")
    weights.data_location = onnx.TensorProto.EXTERNAL
    weights.external_data.add(key="location", value=location)
    (folder / "member-1.onnx").write_bytes(graph.SerializeToString())
    sha256 = sha256_of(folder / "member-1.onnx")
    change_manifest(folder, lambda manifest: manifest["members"][0].update(sha256=sha256))
    with pytest.raises(BundleRefused, match=r"member-1.onnx"):
        load(folder)


@pytest.mark.parametrize("shape", [(3, 4, 4), (1, 5, 4)])
def test_a_member_of_another_input_is_refused(folder: Path, shape: tuple[int, int, int]) -> None:
    replace_member(folder, stub_graph(StubMember((0.7, 0.2, 0.1)), shape))
    with pytest.raises(BundleRefused, match=r"stub/1: member-1.onnx takes and gives .*, expected .*"):
        load(folder)


def test_a_member_of_another_number_of_classes_is_refused(folder: Path) -> None:
    replace_member(folder, stub_graph(StubMember((0.7, 0.3)), (1, 4, 4)))
    with pytest.raises(BundleRefused, match="takes and gives"):
        load(folder)


def test_a_member_that_is_no_graph_is_refused_without_a_word_on_standard_output(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Where onnxruntime itself would print that it tries again; its reason here is no UTF-8."""
    folder = write_bundle(tmp_path)
    file = folder / "member-1.onnx"
    file.write_bytes(file.read_bytes().replace(b"Softmax", b"Soft\x93ax"))
    change_manifest(folder, lambda manifest: manifest["members"][0].update(sha256=sha256_of(file)))
    with pytest.raises(BundleRefused, match=r"stub/1: member-1.onnx cannot be loaded"):
        Ensemble(folder, "cpu")
    assert capfd.readouterr().out == ""


def test_a_member_that_answers_otherwise_is_refused(folder: Path) -> None:
    replace_member(folder, stub_graph(StubMember((0.69, 0.21, 0.1)), (1, 4, 4)))
    with pytest.raises(BundleRefused, match=r"stub/1: self-check failed: member-1.onnx is off by 1.00e-02"):
        load(folder)


@pytest.fixture
def _rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """The provider cpu counts as one that rounds to bfloat16."""
    monkeypatch.setitem(EXECUTIONS, "cpu", dataclasses.replace(EXECUTIONS["cpu"], rounds=True))


@pytest.mark.usefixtures("_rounding")
def test_rounding_may_move_a_tenth_of_the_probability_on_average(folder: Path) -> None:
    replace_member(folder, stub_graph(StubMember((0.61, 0.29, 0.1)), (1, 4, 4)))
    assert load(folder).provider == "cpu"
    replace_member(folder, stub_graph(StubMember((0.59, 0.31, 0.1)), (1, 4, 4)))
    with pytest.raises(BundleRefused, match=r"member-1.onnx is off by 1.10e-01 on average, 1e-01 is accepted"):
        load(folder)


@pytest.mark.usefixtures("_rounding")
def test_answers_that_nothing_rounded_are_no_bfloat16(folder: Path) -> None:
    with pytest.raises(ProviderInactive, match=r"answers as without it .* the processor has no bfloat16"):
        load(folder)


def test_a_member_that_does_not_run_is_refused(folder: Path) -> None:
    """It loads, and has the right signature, but its first step asks for what is not there."""
    graph = stub_graph(StubMember((0.7, 0.2, 0.1)), (1, 4, 4))
    graph.graph.node[1].op_type = "Reshape"
    graph.graph.node[1].input.append("target")
    graph.graph.initializer.append(onnx.numpy_helper.from_array(np.array([-1, 7]), "target"))
    replace_member(folder, graph)
    with pytest.raises(BundleRefused, match=r"member-1.onnx (does not run|cannot be loaded)"):
        load(folder)


def test_a_manifest_that_is_wrong_is_refused(folder: Path) -> None:
    change_manifest(folder, lambda manifest: manifest.update(format_version=9))
    with pytest.raises(BundleRefused, match="format_version: Input should be 1, got '9'"):
        load(folder)


def test_a_provider_that_is_not_installed_is_refused() -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(ProviderInactive, match=r"'cuda' was asked for, but .* has only .*extra 'cuda'"):
        require_provider("cuda")


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches that run, once the provider cpu has fixed ones, as cuda does."""
    fixed = dataclasses.replace(EXECUTIONS["cuda"], name=EXECUTIONS["cpu"].name, options={})
    monkeypatch.setitem(EXECUTIONS, "cpu", fixed)
    seen: list[int] = []
    bind = onnxruntime.IOBinding.bind_cpu_input

    def note(binding: onnxruntime.IOBinding, name: str, pixels: Pixels) -> None:
        seen.append(len(pixels))
        bind(binding, name, pixels)

    monkeypatch.setattr(onnxruntime.IOBinding, "bind_cpu_input", note)
    return seen


def test_fixed_sizes_of_batches_change_no_answer(request: pytest.FixtureRequest) -> None:
    """Bit for bit, of networks that ship."""
    folder = Path("models/mnist-small/3")
    pixels = np.random.default_rng(0).integers(0, 256, (70, 1, 28, 28), np.uint8)
    counts = (1, 3, 32, 70)
    free = load(folder)
    expected = [free.run_member(0, pixels[:images]) for images in counts]
    sizes = request.getfixturevalue("sizes")
    fixed = load(folder)
    sizes.clear()
    for images, answer in zip(counts, expected, strict=True):
        np.testing.assert_array_equal(fixed.run_member(0, pixels[:images]), answer)
    assert sizes == [1, 8, 32, 128]


def test_every_size_is_planned_when_a_bundle_is_loaded(folder: Path, sizes: list[int]) -> None:
    """After the self-check, of each of the two members."""
    load(folder)
    assert sizes[2:] == [1, 1, 8, 8, 32, 32, 64, 64]


def test_a_gpu_computes_in_float32_at_few_sizes() -> None:
    execution = EXECUTIONS["cuda"]
    assert execution.options == {"use_tf32": "0"}
    assert [execution.padded(images) for images in (1, 2, 9, 33, 64, 65, 256)] == [1, 8, 32, 64, 64, 128, 256]


def test_a_provider_that_falls_back_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As onnxruntime does when a provider is installed but cannot start: it logs, and takes the CPU."""
    real = onnxruntime.InferenceSession

    def fall_back(graph: bytes, options: onnxruntime.SessionOptions, **_: object) -> onnxruntime.InferenceSession:
        return real(graph, options)

    monkeypatch.setattr(onnxruntime, "InferenceSession", fall_back)
    with pytest.raises(ProviderInactive, match=r"'cuda' was asked for, .* would run member-1.onnx, .* on the CPU"):
        open_session((folder / "member-1.onnx").read_bytes(), "member-1.onnx", "cuda")


def test_a_provider_that_takes_only_part_of_a_graph_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Azure's takes no node of ours, and is named first in the session all the same."""
    name = "AzureExecutionProvider"
    if name not in onnxruntime.get_available_providers():
        pytest.skip(f"this onnxruntime has no {name}")
    monkeypatch.setitem(EXECUTIONS, "cuda", dataclasses.replace(EXECUTIONS["cuda"], name=name, options={}))
    with pytest.raises(ProviderInactive, match=r"'cuda' was asked for, .* would run member-1.onnx, .* on the CPU"):
        open_session((folder / "member-1.onnx").read_bytes(), "member-1.onnx", "cuda")


def test_one_member_uses_one_thread(folder: Path) -> None:
    graph = (folder / "member-1.onnx").read_bytes()
    options = open_session(graph, "member-1.onnx", "cpu").get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)


def test_auto_passes_over_a_provider_that_does_not_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the CUDA build of onnxruntime is installed and there is no GPU."""
    monkeypatch.setattr("serving.ensemble.installed_providers", lambda: ["cuda", "cpu"])
    with structlog.testing.capture_logs() as logs:
        assert load_ensemble(folder, "auto").provider == "cpu"
    assert [(entry["event"], entry["provider"]) for entry in logs] == [("provider passed over", "cuda")]


def test_auto_gives_the_reason_where_no_provider_passes(folder: Path) -> None:
    change_manifest(
        folder, lambda manifest: manifest["self_check"].update(member_probabilities=[[[1, 0, 0]] * 2] * 2)
    )
    with pytest.raises(BundleRefused, match="self-check failed"):
        load_ensemble(folder, "auto")
