"""Each defence in docs/security.md and each fault in docs/operations.md names its tests, and they are there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from serving.security.settings import SecuritySettings

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs/security.md").read_text()
ROWS = [line for line in TEXT.splitlines() if line.startswith("| ") and "| attack |" not in line]
FAULTS = (ROOT / "docs/operations.md").read_text().partition("\n## Faults\n")[2].partition("\n## ")[0].splitlines()
NAMED = re.compile(r"`(tests/[^`:]+\.py)::([^`]+)`")


FAULT_ROWS = [line for line in FAULTS if line.startswith("| ") and "| fault |" not in line]


@pytest.mark.parametrize("row", [*ROWS, *FAULT_ROWS], ids=lambda row: row.split("|")[1].strip())
def test_every_defence_and_fault_has_a_test_that_exists(row: str) -> None:
    named = NAMED.findall(row.split("|")[3])
    assert named
    for file, path in named:
        scope: ast.AST = ast.parse((ROOT / file).read_text())
        for name in path.split("::"):
            inside = [node for node in ast.iter_child_nodes(scope) if getattr(node, "name", None) == name]
            assert len(inside) == 1, f"{file} has no {path}"
            (scope,) = inside


def test_every_limit_stands_in_the_table() -> None:
    limits = [name for name in SecuritySettings.model_fields if name.endswith(("seconds", "pixels", "bytes"))]
    limits += ["max_connections", "max_connection_streams", "max_call_images", "max_image_pixels"]
    table = "\n".join(ROWS)
    assert [name for name in limits if f"`{name}`" not in table and name != "connection_grace_seconds"] == []


def test_the_tables_are_not_empty() -> None:
    assert len(ROWS) > 25
    assert len(FAULT_ROWS) > 14
