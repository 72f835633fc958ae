"""The manifest is documented, complete, and refused with a clear word when it is not what it should be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from export.manifest import MANIFEST_FILE, Manifest, ManifestError, read_manifest
from tests.bundles import write_bundle

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A valid bundle."""
    return write_bundle(tmp_path)


def rewrite(folder: Path, path: str, value: Any) -> None:
    """Set (or, with None, delete) what lies at a dotted path of a manifest."""
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    target = manifest
    for part in parents:
        target = target[part]
    if value is None:
        del target[last]
    else:
        target[last] = value
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest))


def test_the_committed_schema_is_that_of_the_code() -> None:
    committed = json.loads((ROOT / "docs/bundle.schema.json").read_text())
    assert committed == Manifest.model_json_schema(), "out of date: run make schema"


def test_every_field_is_described_in_the_schema() -> None:
    schema = Manifest.model_json_schema()
    parts = [schema, *schema["$defs"].values()]
    missing = [
        f"{part['title']}.{name}"
        for part in parts
        for name, field in part["properties"].items()
        if not field.get("description")
    ]
    assert missing == []


def test_the_schema_accepts_what_is_written(folder: Path) -> None:
    schema = json.loads((ROOT / "docs/bundle.schema.json").read_text())
    jsonschema.validate(json.loads((folder / MANIFEST_FILE).read_text()), schema)


def test_a_written_manifest_is_read_back(folder: Path) -> None:
    assert read_manifest(folder).class_labels == ("class 0", "class 1", "class 2")


def test_a_float32_bundle_says_nothing_of_int8(folder: Path) -> None:
    """So that a server which does not know the field yet still reads it."""
    assert "quantization" not in json.loads((folder / MANIFEST_FILE).read_text())
    assert read_manifest(folder).quantization is None


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("format_version", 2, "format_version: Input should be 1, got '2'"),
        ("name", None, "name: Field required"),
        ("name", "Stub", "name: String should match pattern"),
        ("version", 0, "version: Input should be greater than or equal to 1"),
        ("nickname", "x", "nickname: Extra inputs are not permitted"),
        ("class_labels", ["a", "a", "b"], "class_labels: a label comes twice"),
        ("class_labels", ["a", "b"], "expected 2 members x 2 images x 2 classes"),
        ("input.channels", 2, "input.channels: Input should be 1 or 3"),
        ("input.height", 5, "self_check.pixels_base64: 32 bytes, expected 40"),
        ("members.0.file", "../member-1.onnx", "members.0.file: String should match pattern"),
        ("members.0.file", "/etc/passwd", "members.0.file: String should match pattern"),
        ("members.1.file", "member-1.onnx", "members: a file comes twice"),
        ("members.0.sha256", "abc", "members.0.sha256: String should match pattern"),
        ("members", [], "members: Tuple should have at least 1 item"),
        ("averaging.temperature", 0, "averaging.temperature: Input should be greater than 0"),
        ("averaging.temperature", float("inf"), "averaging.temperature: Input should be a finite number"),
        ("quantization", {"precision": "int4"}, "quantization.precision: Input should be 'int8', got 'int4'"),
        ("test.accuracy", 1.2, "test.accuracy: Input should be less than or equal to 1"),
        ("self_check.pixels_base64", "not base64!", "self_check.pixels_base64: "),
    ],
)
def test_a_wrong_manifest_is_explained(folder: Path, path: str, value: Any, message: str) -> None:
    rewrite(folder, path, value)
    with pytest.raises(ManifestError) as error:
        read_manifest(folder)
    assert message in str(error.value)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"format_version": 1'])
def test_what_is_no_manifest_is_refused(folder: Path, content: str) -> None:
    (folder / MANIFEST_FILE).write_text(content)
    with pytest.raises(ManifestError, match="does not follow the schema"):
        read_manifest(folder)


def test_a_missing_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="cannot be read: No such file"):
        read_manifest(tmp_path)


def test_a_bundle_in_another_models_folder_is_refused(folder: Path) -> None:
    moved = folder.rename(folder.with_name("2"))
    with pytest.raises(ManifestError, match="is of stub/1, but lies in stub/2"):
        read_manifest(moved)
