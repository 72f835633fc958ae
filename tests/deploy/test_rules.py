"""Prometheus accepts the rules, evaluates every one on a real server, and they say what they should."""

from __future__ import annotations

import shutil
import subprocess
import time
from typing import Any

import pytest
import yaml

from tests.deploy.prometheus import RULES, SECONDS, Prometheus

RECORDED = [
    rule["record"]
    for group in yaml.safe_load((RULES / "rules.yml").read_text())["groups"]
    for rule in group["rules"]
    if "record" in rule
]


def test_the_rules_say_what_they_should() -> None:
    """Each with series made up for it, by Prometheus' own tool."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed; Debian's package prometheus has it")
    for arguments in (["test", "rules", "rules_test.yml"], ["check", "config", "prometheus.yml"]):
        result = subprocess.run([promtool, *arguments], cwd=RULES, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout + result.stderr


def test_every_rule_is_evaluated_without_error(prometheus: Prometheus) -> None:
    until = time.monotonic() + SECONDS
    rules: list[dict[str, Any]] = []
    while time.monotonic() < until:
        groups = (prometheus.get("rules") or {"groups": []})["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        if rules and all(rule["health"] != "unknown" for rule in rules):
            break
        time.sleep(0.2)
    assert len(rules) > len(RECORDED)
    assert {rule["name"]: rule.get("lastError") for rule in rules if rule["health"] != "ok"} == {}


@pytest.mark.parametrize("name", RECORDED)
def test_every_recorded_series_has_data(prometheus: Prometheus, name: str) -> None:
    assert prometheus.query(name)


def test_the_recorded_drift_is_that_of_the_calls(prometheus: Prometheus) -> None:
    """All images are of class 0, of which 0.5 was expected; one of two members agrees, of which 0.75 was."""
    (drift,) = prometheus.query("consort:class_drift:distance1h")
    assert float(drift["value"][1]) == pytest.approx(0.5)
    (agreement,) = prometheus.query("consort:agreement_drift:ratio1h")
    assert float(agreement["value"][1]) == pytest.approx(-0.25, abs=1e-6)
