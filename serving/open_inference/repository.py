"""The models folder as the Open Inference Protocol's repository: listed, loaded from, unloaded."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from protos.open_inference.v2 import grpc_service_pb2 as pb
from serving.control import ModelControl
from serving.errors import InvalidRequest
from serving.repository import Bundle
from serving.rollout import Rollout

READY, UNAVAILABLE = "READY", "UNAVAILABLE"
"""States of a version, by the names that Triton gives them."""
UNLOAD_PARAMETERS = ("unload_dependents",)
"""Triton's client always sends it. No model here depends on another, so it says nothing."""


def list_bundles(control: ModelControl, request: pb.RepositoryIndexRequest) -> pb.RepositoryIndexResponse:
    """Every version in the folder or in use, with its state.

    Raises:
        ControlOff: The settings do not allow it.
        InvalidRequest: Another repository is meant.
    """
    rollout = control.rollout
    _check_repository(request.repository_name)
    entries = [_encode(bundle, rollout) for bundle in rollout.bundles()]
    return pb.RepositoryIndexResponse(
        models=[entry for entry in entries if entry.state == READY or not request.ready]
    )


def load(control: ModelControl, request: pb.RepositoryModelLoadRequest) -> pb.RepositoryModelLoadResponse:
    """Load a model, or look for newer versions of it; see `Rollout.load` for errors."""
    rollout = control.rollout
    _check_repository(request.repository_name)
    _check_parameters(request.parameters, ())
    rollout.load(request.model_name)
    return pb.RepositoryModelLoadResponse()


def unload(control: ModelControl, request: pb.RepositoryModelUnloadRequest) -> pb.RepositoryModelUnloadResponse:
    """Unload all versions of a model; see `Rollout.unload` for errors."""
    rollout = control.rollout
    _check_repository(request.repository_name)
    _check_parameters(request.parameters, UNLOAD_PARAMETERS)
    rollout.unload(request.model_name)
    return pb.RepositoryModelUnloadResponse()


def _encode(bundle: Bundle, rollout: Rollout) -> pb.RepositoryIndexResponse.ModelIndex:
    reason = rollout.why_not(bundle)
    state = UNAVAILABLE if reason else READY
    return pb.RepositoryIndexResponse.ModelIndex(
        name=bundle.name, version=str(bundle.version), state=state, reason=reason
    )


def _check_repository(name: str) -> None:
    if name:
        raise InvalidRequest(f"repository_name is {name!r}; there is one models folder, leave it empty")


def _check_parameters(parameters: Mapping[str, pb.ModelRepositoryParameter], known: Collection[str]) -> None:
    for name in parameters:
        if name not in known:
            understood = ", ".join(known) or "none"
            raise InvalidRequest(f"parameter {name!r} is not understood; understood: {understood}")
