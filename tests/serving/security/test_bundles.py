"""A bundle brings weights and a description; it runs no code of its own and reads nothing outside itself."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from export.manifest import ManifestError, read_manifest, sha256_of
from serving.ensemble import Ensemble
from serving.errors import BundleRefused
from tests.bundles import StubMember, stub_graph, write_bundle
from tests.serving.test_ensemble import change_manifest, replace_member

ROOT = Path(__file__).parents[3]
PICKLES = {"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_bundle(tmp_path)


@pytest.mark.parametrize(
    "file",
    ["../member-1.onnx", "/etc/passwd", "sub/member-1.onnx", "..", ".onnx", "member-1.onnx\n", "a\x00.onnx"],
)
def test_a_manifest_names_no_path(folder: Path, file: str) -> None:
    change_manifest(folder, lambda manifest: manifest["members"][0].update(file=file))
    with pytest.raises(ManifestError, match=r"members.0.file: String should match pattern"):
        read_manifest(folder)


@pytest.mark.parametrize("name", ["../stub", "stub/..", ".", "..", "/stub", "a\n"])
def test_a_model_is_not_named_by_a_path(folder: Path, name: str) -> None:
    change_manifest(folder, lambda manifest: manifest.update(name=name))
    with pytest.raises(ManifestError, match="name: String should match pattern"):
        read_manifest(folder)


def test_a_manifest_that_lies_elsewhere_is_refused(folder: Path) -> None:
    """And nothing of what it leads to is quoted."""
    secret = folder.parent / "secret"
    secret.write_text("a password")
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").symlink_to(secret)
    with pytest.raises(ManifestError, match="it is a link, not a regular file in the bundle") as error:
        read_manifest(folder)
    assert "password" not in str(error.value)


def test_a_manifest_that_is_a_pipe_is_not_waited_for(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    os.mkfifo(folder / "manifest.json")
    with pytest.raises(ManifestError, match="it is not a regular file in the bundle"):
        read_manifest(folder)


def test_an_operator_of_another_library_is_refused(folder: Path) -> None:
    graph = stub_graph(StubMember((0.7, 0.2, 0.1)), (1, 4, 4))
    graph.graph.node[0].domain = "somebody.elses"
    graph.opset_import.append(helper.make_opsetid("somebody.elses", 1))
    replace_member(folder, graph)
    with pytest.raises(BundleRefused, match=r"member-1.onnx cannot be loaded: .* not a registered function/op"):
        Ensemble(folder, "cpu")


@pytest.mark.parametrize("place", ["constant", "branch"])
def test_numbers_of_another_file_are_refused_wherever_they_stand(
    folder: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a node's attribute and in the branch of a node too, not just among the weights."""
    monkeypatch.chdir(folder)
    graph = stub_graph(StubMember((0.7, 0.2, 0.1)), (1, 4, 4))
    weights = graph.graph.initializer.pop(0)
    Path("weights").write_bytes(weights.raw_data)
    outside = TensorProto(name=weights.name, data_type=weights.data_type, dims=weights.dims)
    outside.data_location = TensorProto.EXTERNAL
    outside.external_data.add(key="location", value="weights")
    node = helper.make_node("Constant", [], [weights.name], value=outside)
    if place == "branch":
        output = helper.make_tensor_value_info(weights.name, weights.data_type, weights.dims)
        branch = helper.make_graph([node], "branch", [], [output])
        graph.graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), "truth"))
        node = helper.make_node("If", ["truth"], [weights.name], then_branch=branch, else_branch=branch)
    graph.graph.node.insert(0, node)
    (folder / "member-1.onnx").write_bytes(graph.SerializeToString())
    sha256 = sha256_of(folder / "member-1.onnx")
    change_manifest(folder, lambda manifest: manifest["members"][0].update(sha256=sha256))
    with pytest.raises(
        BundleRefused, match=r"member-1.onnx cannot be loaded: .*(External data|/dev/null/weights)"
    ):
        Ensemble(folder, "cpu")


@pytest.mark.parametrize("package", ["serving", "export", "imaging", "machine", "protos"])
def test_nothing_that_serves_or_exports_unpickles(package: str) -> None:
    """What unpickles runs what it reads."""
    for file in (ROOT / package).rglob("*.py"):
        tree = ast.parse(file.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name.split(".")[0] for alias in node.names} | {
                    (getattr(node, "module", None) or "").split(".")[0]
                }
                assert not names & PICKLES, file
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                assert isinstance(node.value, ast.Constant), file
                assert node.value.value is False, file
