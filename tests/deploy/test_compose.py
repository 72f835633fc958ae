"""What compose hands to the server is what the server knows."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml

from serving.providers import EXECUTIONS
from serving.settings import ServerSettings

ROOT = Path(__file__).parents[2]
SERVER = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["server"]


def test_variables_are_settings_of_the_server() -> None:
    names = {name.removeprefix("CONSORT_").lower() for name in SERVER["environment"]}
    assert names <= set(ServerSettings.model_fields)
    assert SERVER["environment"]["CONSORT_PROVIDER"] == "${CONSORT_PROVIDER:-cpu}"


def test_the_image_is_built_with_an_onnxruntime_that_there_is() -> None:
    """The extra is chosen by a build argument, with the same default in both files."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert SERVER["build"]["args"]["ONNXRUNTIME"] == "${CONSORT_ONNXRUNTIME:-cpu}"
    dockerfile = (ROOT / "deploy/Dockerfile").read_text()
    assert re.findall(r"^ARG ONNXRUNTIME=(\w+)$", dockerfile, re.MULTILINE) == ["cpu"]
    assert '".[$ONNXRUNTIME,tracing]"' in dockerfile
    assert {execution.extra for execution in EXECUTIONS.values()} <= extras.keys()
