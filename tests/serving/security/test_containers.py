"""What docker-compose.yml asks of every container, read without an engine; tests/end_to_end asks the engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
SERVICES: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
OURS = [name for name, service in SERVICES.items() if "build" in service]


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_is_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    for key in ("cap_add", "privileged", "network_mode", "pid", "ipc", "devices", "userns_mode"):
        assert key not in service
    assert not [mount for mount in service.get("volumes", ()) if "docker.sock" in mount]


@pytest.mark.parametrize("name", OURS)
def test_our_containers_have_nothing_to_write_to_but_their_volumes(name: str) -> None:
    assert SERVICES[name]["read_only"] is True


def test_the_server_cannot_change_the_models() -> None:
    (mount,) = SERVICES["server"]["volumes"]
    assert mount.endswith(":/models:ro")


def test_no_stage_that_runs_is_root() -> None:
    """Every stage of the Dockerfile that has an entry point names a user by number, which Kubernetes can check."""
    stages = (ROOT / "deploy/Dockerfile").read_text().split("\nFROM ")[1:]
    running = [stage for stage in stages if "\nENTRYPOINT" in stage]
    assert len(running) >= 2
    for stage in running:
        (user,) = [line for line in stage.splitlines() if line.startswith("USER ")]
        assert int(user.split()[1].partition(":")[0]) > 0
