"""What is said of values that pydantic refuses."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError


def explain(error: ValidationError) -> str:
    """All problems that pydantic found, on one line: where, what, and what came."""
    return "; ".join(_explain_one(dict(problem)) for problem in error.errors(include_url=False))


def _explain_one(problem: dict[str, Any]) -> str:
    where = ".".join(str(part) for part in problem["loc"])
    what = f"{where}: {problem['msg']}" if where else str(problem["msg"])
    if not where or problem["type"] in ("missing", "value_error"):
        return what
    return f"{what}, got {str(problem['input'])[:80]!r}"
