"""Model control by call: the `consort.v1.ModelControl` service, and who may use it and its like."""

from __future__ import annotations

from protos.consort.v1 import model_control_pb2 as pb
from protos.consort.v1 import model_control_pb2_grpc
from serving.codec import encode_refusal
from serving.context import Context
from serving.errors import ControlOff
from serving.rollout import Rollout
from serving.settings import ServerSettings


class ModelControl:
    """Gives access to the rollout where the settings allow it."""

    def __init__(self, rollout: Rollout, settings: ServerSettings) -> None:
        self._rollout = rollout
        self._is_on = settings.model_control

    @property
    def rollout(self) -> Rollout:
        """What is controlled.

        Raises:
            ControlOff: The settings do not allow it.
        """
        if not self._is_on:
            raise ControlOff("models are not controlled by call here; the setting model_control allows it")
        return self._rollout


class ModelControlServicer(model_control_pb2_grpc.ModelControlServicer):
    """What the Open Inference Protocol's calls on its repository leave out."""

    def __init__(self, control: ModelControl) -> None:
        self._control = control

    async def ListRefusals(self, request: pb.ListRefusalsRequest, context: Context) -> pb.ListRefusalsResponse:
        """Tell what was refused, the newest first."""
        refusals = self._control.rollout.refusals
        standing = refusals.standing()
        return pb.ListRefusalsResponse(
            refusals=[
                encode_refusal(refusal, refusal in standing)
                for refusal in refusals.history(request.model_name or None)
            ]
        )
