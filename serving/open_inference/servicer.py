"""The `inference.GRPCInferenceService` service: decode, ask, encode."""

from __future__ import annotations

from collections.abc import Callable

from protos.open_inference.v2 import grpc_service_pb2 as pb
from protos.open_inference.v2 import grpc_service_pb2_grpc
from serving.admission import Admission
from serving.context import Context
from serving.control import ModelControl
from serving.errors import UnknownModel
from serving.loop import aside_if_long, on_a_thread_of_its_own
from serving.models import Model
from serving.open_inference import repository
from serving.open_inference.description import (
    encode_config,
    encode_metadata,
    encode_server,
    encode_statistics,
)
from serving.open_inference.outputs import count_answer, encode_answer
from serving.open_inference.request import count_bytes, decode_request, decode_version, require_few_parts
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

    async def ModelInfer(self, request: pb.ModelInferRequest, context: Context) -> pb.ModelInferResponse:
        """Average the members' answers to a batch of images."""
        with self._admission.admit(context) as call:
            model = self._models.choose(request.model_name, *decode_version(request.model_version))
            require_few_parts(request)
            size_bytes = count_bytes(request)
            inference = await aside_if_long(size_bytes, decode_request, request, model.manifest, self._settings)
            answer = await call.ask(model, inference.pixels, inference.effort)
            verdict = answer.verdict
            size_bytes = count_answer(inference.outputs, verdict)
            response = await aside_if_long(
                size_bytes, encode_answer, request.id, inference.outputs, model.manifest, verdict
            )
            call.measure(model, answer)
            return response

    async def ServerLive(self, request: pb.ServerLiveRequest, context: Context) -> pb.ServerLiveResponse:
        """Say that the process answers."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: pb.ServerReadyRequest, context: Context) -> pb.ServerReadyResponse:
        """Say whether calls should be sent: all models are ready when the port opens."""
        return pb.ServerReadyResponse(ready=self._is_ready())

    async def ModelReady(self, request: pb.ModelReadyRequest, context: Context) -> pb.ModelReadyResponse:
        """Say whether a model is served."""
        try:
            self._find(request.name, request.version)
        except UnknownModel:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=self._is_ready())

    async def ServerMetadata(
        self, request: pb.ServerMetadataRequest, context: Context
    ) -> pb.ServerMetadataResponse:
        """Name the server."""
        return encode_server()

    async def ModelMetadata(self, request: pb.ModelMetadataRequest, context: Context) -> pb.ModelMetadataResponse:
        """Describe a model's tensors."""
        manifest = self._find(request.name, request.version).manifest
        return encode_metadata(manifest, [one.manifest.version for one in self._versions(manifest.name)])

    async def ModelConfig(self, request: pb.ModelConfigRequest, context: Context) -> pb.ModelConfigResponse:
        """Describe how a model is served."""
        model = self._find(request.name, request.version)
        return pb.ModelConfigResponse(config=encode_config(model.manifest, self._settings))

    async def ModelStatistics(
        self, request: pb.ModelStatisticsRequest, context: Context
    ) -> pb.ModelStatisticsResponse:
        """Tell how often models answered, and how long it took."""
        models = self._select(request.name, request.version)
        return pb.ModelStatisticsResponse(
            model_stats=[encode_statistics(model.manifest, model.metrics) for model in models]
        )

    async def RepositoryIndex(
        self, request: pb.RepositoryIndexRequest, context: Context
    ) -> pb.RepositoryIndexResponse:
        """List every version, and whether it is served."""
        return repository.list_bundles(self._control, request)

    async def RepositoryModelLoad(
        self, request: pb.RepositoryModelLoadRequest, context: Context
    ) -> pb.RepositoryModelLoadResponse:
        """Load a model, or look for newer versions of it."""
        return await on_a_thread_of_its_own(repository.load, self._control, request)

    async def RepositoryModelUnload(
        self, request: pb.RepositoryModelUnloadRequest, context: Context
    ) -> pb.RepositoryModelUnloadResponse:
        """Unload all versions of a model."""
        return await on_a_thread_of_its_own(repository.unload, self._control, request)

    def _find(self, name: str, version: str) -> Model:
        return self._models.find(name, *decode_version(version))

    def _versions(self, name: str) -> list[Model]:
        return [model for model in self._models if model.manifest.name == name]

    def _select(self, name: str, version: str) -> list[Model]:
        """The models whose statistics are meant: all, all versions of one, or one version."""
        if version:
            return [self._find(name, version)]
        return self._versions(self._find(name, "").manifest.name) if name else list(self._models)
