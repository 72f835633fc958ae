"""Imports go one way, as docs/architecture.md draws it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {
    *("imaging", "machine", "training", "export", "serving", "explorer", "protos"),
    *("benchmarks", "deploy", "examples", "tests"),
}
ALLOWED = {
    "protos": set(),
    "imaging": set(),
    "machine": set(),
    "training": {"imaging", "machine"},
    "export": {"training", "machine"},
    "serving": {"protos", "export.manifest", "imaging", "machine"},
    "explorer": {"serving.client", "protos", "export.manifest", "imaging", "machine"},
}


def imports_of(file: Path) -> set[str]:
    """Every module that a file imports, `from a.b import c` as a.b."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names.add(node.module or "")
    return names


@pytest.mark.parametrize("package", ALLOWED)
def test_a_package_imports_only_what_the_design_allows(package: str) -> None:
    for file in (ROOT / package).rglob("*.py"):
        for name in imports_of(file):
            top = name.split(".")[0]
            if top in PACKAGES - {package}:
                allowed = any(name == one or name.startswith(one + ".") for one in ALLOWED[package])
                assert allowed, f"{file.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("module", ["serving.server", "serving.__main__", "serving.client.__main__"])
def test_serving_loads_no_torch(module: str) -> None:
    """In a fresh process, after importing everything that serves or calls."""
    unwanted = "{'torch', 'onnx', 'training'} & set(sys.modules)"
    code = f"import sys, {module}; sys.exit(str({unwanted}) if {unwanted} else 0)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_a_manifest_is_read_with_pydantic_alone() -> None:
    """Environments of other servers, which ours is measured beside, read it as well."""
    code = "import sys, export.manifest; sys.exit('pydantic_settings' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_the_explorer_loads_no_torch_and_no_server() -> None:
    """It is a client like any other; from the bundle it reads graphs, with onnx and onnxruntime alone."""
    unwanted = "{'torch', 'training', 'serving.server', 'export.graph'} & set(sys.modules)"
    code = f"import sys, explorer.__main__; sys.exit(str({unwanted}) if {unwanted} else 0)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("module", ["onnxruntime", "protos.open_inference"])
def test_the_client_loads_neither_the_runtime_nor_anybody_elses_contract(module: str) -> None:
    """A client needs gRPC and numpy alone, and Triton's client may live in the same process."""
    code = f"import sys, serving.client; sys.exit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
