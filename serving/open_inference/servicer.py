"""The `inference.GRPCInferenceService` service: decode, ask, encode."""

from __future__ import annotations

from collections.abc import Callable

import grpc

from protos.open_inference.v2 import grpc_service_pb2 as pb
from protos.open_inference.v2 import grpc_service_pb2_grpc
from serving.admission import Admission
from serving.control import ModelControl
from serving.errors import UnknownModel
from serving.models import Model
from serving.open_inference import repository
from serving.open_inference.description import (
    encode_config,
    encode_metadata,
    encode_server,
    encode_statistics,
)
from serving.open_inference.outputs import encode_answer
from serving.open_inference.request import decode_request, decode_version
from serving.routing import Models
from serving.settings import ServerSettings


class OpenInferenceServicer(grpc_service_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers calls from the models that are loaded. Errors become statuses in the interceptor."""

    def __init__(
        self,
        models: Models,
        control: ModelControl,
        admission: Admission,
        settings: ServerSettings,
        is_ready: Callable[[], bool],
    ) -> None:
        self._models = models
        self._control = control
        self._admission = admission
        self._settings = settings
        self._is_ready = is_ready

    def ModelInfer(self, request: pb.ModelInferRequest, context: grpc.ServicerContext) -> pb.ModelInferResponse:
        """Average the members' answers to a batch of images."""
        with self._admission.admit(context) as call:
            model = self._find(request.model_name, request.model_version)
            inference = decode_request(request, model.manifest, self._settings)
            answer = call.ask(model, inference.pixels, inference.effort)
            response = encode_answer(request.id, inference.outputs, model.manifest, answer.verdict)
            call.measure(model, answer)
            return response

    def ServerLive(self, request: pb.ServerLiveRequest, context: grpc.ServicerContext) -> pb.ServerLiveResponse:
        """Say that the process answers."""
        return pb.ServerLiveResponse(live=True)

    def ServerReady(self, request: pb.ServerReadyRequest, context: grpc.ServicerContext) -> pb.ServerReadyResponse:
        """Say whether calls should be sent: all models are ready when the port opens."""
        return pb.ServerReadyResponse(ready=self._is_ready())

    def ModelReady(self, request: pb.ModelReadyRequest, context: grpc.ServicerContext) -> pb.ModelReadyResponse:
        """Say whether a model is served."""
        try:
            self._find(request.name, request.version)
        except UnknownModel:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=self._is_ready())

    def ServerMetadata(
        self, request: pb.ServerMetadataRequest, context: grpc.ServicerContext
    ) -> pb.ServerMetadataResponse:
        """Name the server."""
        return encode_server()

    def ModelMetadata(
        self, request: pb.ModelMetadataRequest, context: grpc.ServicerContext
    ) -> pb.ModelMetadataResponse:
        """Describe a model's tensors."""
        manifest = self._find(request.name, request.version).manifest
        return encode_metadata(manifest, [one.manifest.version for one in self._versions(manifest.name)])

    def ModelConfig(self, request: pb.ModelConfigRequest, context: grpc.ServicerContext) -> pb.ModelConfigResponse:
        """Describe how a model is served."""
        model = self._find(request.name, request.version)
        return pb.ModelConfigResponse(config=encode_config(model.manifest, self._settings))

    def ModelStatistics(
        self, request: pb.ModelStatisticsRequest, context: grpc.ServicerContext
    ) -> pb.ModelStatisticsResponse:
        """Tell how often models answered, and how long it took."""
        models = self._select(request.name, request.version)
        return pb.ModelStatisticsResponse(
            model_stats=[encode_statistics(model.manifest, model.metrics) for model in models]
        )

    def RepositoryIndex(
        self, request: pb.RepositoryIndexRequest, context: grpc.ServicerContext
    ) -> pb.RepositoryIndexResponse:
        """List every version, and whether it is served."""
        return repository.list_bundles(self._control, request)

    def RepositoryModelLoad(
        self, request: pb.RepositoryModelLoadRequest, context: grpc.ServicerContext
    ) -> pb.RepositoryModelLoadResponse:
        """Load a model, or look for newer versions of it."""
        return repository.load(self._control, request)

    def RepositoryModelUnload(
        self, request: pb.RepositoryModelUnloadRequest, context: grpc.ServicerContext
    ) -> pb.RepositoryModelUnloadResponse:
        """Unload all versions of a model."""
        return repository.unload(self._control, request)

    def _find(self, name: str, version: str) -> Model:
        return self._models.find(name, *decode_version(version))

    def _versions(self, name: str) -> list[Model]:
        return [model for model in self._models if model.manifest.name == name]

    def _select(self, name: str, version: str) -> list[Model]:
        """The models whose statistics are meant: all, all versions of one, or one version."""
        if version:
            return [self._find(name, version)]
        return self._versions(self._find(name, "").manifest.name) if name else list(self._models)
