"""docs/operations.md tells of every metric that a server exports, and of no other."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from serving.client import CallError, Client
from serving.server import Server
from serving.settings import ServerSettings
from serving.supervisor import Supervisor
from tests.bundles import write_bundle

DOCUMENT = (Path(__file__).parents[1] / "docs/operations.md").read_text()
ROW = re.compile(r"^\| `([a-z_]+)` \|([a-z_, ]*)\| \S", re.MULTILINE)
EXPECTED = {"images": 10, "class_shares": [0.5, 0.3, 0.2], "entropy": 0.1, "agreement": 0.9}
OF_A_HISTOGRAM = {"le"}


OF_WORKERS = {"consort_workers", "consort_wanted_workers", "consort_lost_workers_total"}


def exported(server: Server | Supervisor) -> dict[str, set[str]]:
    """The labels of every metric, by its name."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics", timeout=10) as reply:
        families = list(text_string_to_metric_families(reply.read().decode()))
    return {
        f"{family.name}_total" if family.type == "counter" else family.name: {
            label for sample in family.samples for label in sample.labels
        }
        - OF_A_HISTOGRAM
        for family in families
        if not family.name.endswith("_created")
    }


def test_the_table_of_metrics_is_complete_and_true(tmp_path: Path, start_server: Callable[..., Server]) -> None:
    """After a call that is answered and one that is refused, so that labels show."""
    write_bundle(tmp_path, expected=EXPECTED)
    server = start_server(tmp_path)
    many = np.zeros((256, 1, 4, 4), np.uint8)
    with Client(f"127.0.0.1:{server.grpc_port}") as client:
        client.classify(many[:1])
        with pytest.raises(CallError):
            client.classify(many[:1], model="x")
    found = exported(server)
    documented: dict[str, str] = dict(ROW.findall(DOCUMENT))
    assert found.keys() == documented.keys() - OF_WORKERS
    for name in found:
        said = {label.strip() for label in documented[name].split(",")} - {""}
        assert found[name] in (said, set()), name  # nobody has left, so that nothing tells how


def test_workers_export_all_of_it_and_two_metrics_more(models: Path) -> None:
    settings = ServerSettings(models=models, host="127.0.0.1", grpc_port=0, metrics_port=0, workers=2, threads=2)
    server = Supervisor(settings, 2)
    server.start()
    found = exported(server)
    server.drain()
    server.stop()
    assert found.keys() == dict(ROW.findall(DOCUMENT)).keys()
    assert not found["consort_workers"] | found["consort_lost_workers_total"]


@pytest.mark.parametrize("flag", ["workers", "access-log-share", "access-log-error-share", "trace-endpoint"])
def test_flags_that_it_names_exist(flag: str) -> None:
    assert f"--{flag} " in DOCUMENT
    assert flag.replace("-", "_") in ServerSettings.model_fields


def test_alerts_are_those_of_the_rules() -> None:
    rules = (Path(__file__).parents[1] / "deploy/prometheus/rules.yml").read_text()
    assert set(re.findall(r"^\| (Consort\w+) \|", DOCUMENT, re.MULTILINE)) == set(
        re.findall(r"- alert: (\w+)", rules)
    )
