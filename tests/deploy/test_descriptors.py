"""Envoy's descriptors are those of the contract and of the paths beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.api import annotations_pb2
from google.protobuf import descriptor_pb2

from deploy.envoy.descriptors import DESCRIPTORS, RULES, describe


def test_committed_descriptors_are_those_of_the_contract() -> None:
    """`make protos` would change nothing."""
    committed = descriptor_pb2.FileDescriptorSet.FromString(DESCRIPTORS.read_bytes())
    assert committed == describe(), "classifier.pb is out of date: run make protos"


def test_every_method_has_a_path() -> None:
    (file,) = describe().file
    (service,) = file.service
    paths = {method.name: method.options.Extensions[annotations_pb2.http] for method in service.method}
    assert {name: rule.post or rule.get for name, rule in paths.items()} == {
        "Classify": "/v1/models/{model_name}:classify",
        "ListModels": "/v1/models",
        "GetModel": "/v1/models/{name}",
    }


def test_a_rule_for_a_method_that_is_not_there_is_refused(tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULES.read_text().replace("Classifier.GetModel", "Classifier.FindModel"))
    with pytest.raises(ValueError, match=r"rules for .*FindModel.*, expected one for each of .*GetModel"):
        describe(rules)
