"""The contract and its JSON paths as one descriptor set, for Envoy: `python -m deploy.envoy.descriptors`.

The paths are rules of google.api.http, which usually stand in the .proto file itself. There they would make every
client, in every language, need Google's files beside ours.
"""

from __future__ import annotations

import sys
from pathlib import Path

import yaml
from google.api import annotations_pb2, http_pb2
from google.protobuf import descriptor_pb2, json_format

from protos.consort.v1 import classifier_pb2

FOLDER = Path(__file__).parent
RULES = FOLDER / "json_paths.yaml"
DESCRIPTORS = FOLDER / "classifier.pb"


def describe(rules: Path = RULES) -> descriptor_pb2.FileDescriptorSet:
    """The contract's descriptor with a rule on each method.

    Raises:
        ValueError: A rule names a method that the contract has not, or a method has no rule.
    """
    file = descriptor_pb2.FileDescriptorProto()
    classifier_pb2.DESCRIPTOR.CopyToProto(file)
    http = json_format.ParseDict(yaml.safe_load(rules.read_text(encoding="utf-8")), http_pb2.Http())
    by_method = {rule.selector: rule for rule in http.rules}
    methods = {
        f"{file.package}.{service.name}.{method.name}": method
        for service in file.service
        for method in service.method
    }
    if by_method.keys() != methods.keys():
        raise ValueError(f"{rules} has rules for {sorted(by_method)}, expected one for each of {sorted(methods)}")
    for name, method in methods.items():
        method.options.Extensions[annotations_pb2.http].CopyFrom(by_method[name])
    return descriptor_pb2.FileDescriptorSet(file=[file])


if __name__ == "__main__":
    DESCRIPTORS.write_bytes(describe().SerializeToString(deterministic=True))
    sys.exit()
