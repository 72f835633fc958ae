"""The dashboard is well formed, provisioned as compose mounts it, and every one of its queries gives data."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
import yaml

from tests.deploy.prometheus import ROOT, Prometheus

DASHBOARD: dict[str, Any] = json.loads((ROOT / "deploy/grafana/dashboards/consort.json").read_text())
PROVISIONING = ROOT / "deploy/grafana/provisioning"
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = {
    f"{panel['title']} {target['refId']}": target["expr"] for panel in PANELS for target in panel["targets"]
}


@pytest.mark.parametrize("expression", QUERIES.values(), ids=QUERIES)
def test_a_query_gives_data(prometheus: Prometheus, expression: str) -> None:
    """With Grafana's variables filled in as Grafana would."""
    assert prometheus.query(expression.replace("$__rate_interval", "1m").replace("$job", "consort"))


def test_the_job_can_be_chosen(prometheus: Prometheus) -> None:
    (variable,) = DASHBOARD["templating"]["list"]
    assert variable["query"]["query"] == "label_values(consort_model_info, job)"
    assert {series["metric"]["job"] for series in prometheus.query("consort_model_info")} == {"consort"}


def test_no_variable_is_left_that_nobody_fills_in() -> None:
    for expression in QUERIES.values():
        assert "$" not in expression.replace("$__rate_interval", "").replace("$job", "")


def test_panels_have_what_grafana_needs() -> None:
    assert DASHBOARD["uid"] == "consort"
    assert "id" not in DASHBOARD, "the number is Grafana's to give"
    assert DASHBOARD["schemaVersion"] >= 36, "of panels that name their data source by uid"
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in PANELS:
        assert panel["title"]
        assert panel["type"] in {"stat", "timeseries"}
        assert panel["fieldConfig"]["defaults"]["unit"]
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references) > 0


def test_panels_lie_in_the_grid_and_not_on_each_other() -> None:
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    for place in places:
        assert 0 <= place["x"] < place["x"] + place["w"] <= 24
    for one, other in itertools.combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below


def test_everything_asks_the_data_source_that_is_provisioned() -> None:
    (source,) = yaml.safe_load((PROVISIONING / "datasources/prometheus.yml").read_text())["datasources"]
    asked = {
        part["datasource"]["uid"]
        for part in (*DASHBOARD["templating"]["list"], *PANELS, *(one for p in PANELS for one in p["targets"]))
    }
    assert asked == {source["uid"]}
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    assert source["url"] == "http://prometheus:9090"
    assert "prometheus" in compose


def test_compose_mounts_what_is_provisioned() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    mounted = dict(volume.split(":")[:2] for volume in services["grafana"]["volumes"])
    (provider,) = yaml.safe_load((PROVISIONING / "dashboards/consort.yml").read_text())["providers"]
    assert mounted["./deploy/grafana/dashboards"] == provider["options"]["path"]
    assert mounted["./deploy/grafana/provisioning"] == "/etc/grafana/provisioning"
    assert services["grafana"]["profiles"] == ["dashboard"]
    rules = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())["rule_files"]
    watched = [volume.split(":")[0] for volume in services["prometheus"]["volumes"]]
    assert {f"./deploy/prometheus/{name}" for name in (*rules, "prometheus.yml")} <= set(watched)
