"""The `consort.v1.Classifier` service: decode, ask, encode."""

from __future__ import annotations

from protos.consort.v1 import classifier_pb2 as pb
from protos.consort.v1 import classifier_pb2_grpc
from serving.admission import Admission
from serving.codec import (
    count_answer,
    decode_effort,
    decode_images,
    encode_answer,
    encode_model,
    encode_summary,
    encode_timing,
)
from serving.context import Context
from serving.loop import aside_if_long
from serving.models import Model
from serving.refusals import Refusals
from serving.routing import Models
from serving.settings import ServerSettings


class ClassifierServicer(classifier_pb2_grpc.ClassifierServicer):
    """Answers calls from the models that are loaded. Errors become statuses in the interceptor."""

    def __init__(self, models: Models, refusals: Refusals, admission: Admission, settings: ServerSettings) -> None:
        self._models = models
        self._refusals = refusals
        self._admission = admission
        self._settings = settings

    async def Classify(self, request: pb.ClassifyRequest, context: Context) -> pb.ClassifyResponse:
        """Average the members' answers to a batch of images."""
        with self._admission.admit(context) as call:
            model = self._models.choose(request.model_name, request.model_version, request.model_label)
            pixels = await decode_images(request, model.manifest.input, self._settings)
            effort = decode_effort(request.max_members, request.early_stop, model.manifest)
            answer = await call.ask(model, pixels, effort)
            verdict = answer.verdict
            size_bytes = count_answer(request, verdict)
            response = await aside_if_long(size_bytes, encode_answer, request, model.manifest, verdict)
            response.timing.CopyFrom(encode_timing(call.measure(model, answer)))
            return response

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        """Name all models that are loaded."""
        return pb.ListModelsResponse(models=map(self._summarize, self._models))

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        """Describe one model."""
        model = self._models.find(request.name, request.version, request.label)
        return encode_model(model, self._summarize(model), self._refusals.standing(model.manifest.name))

    def _summarize(self, model: Model) -> pb.ModelSummary:
        return encode_summary(model.manifest, self._models.is_default(model), self._models.labels_of(model))
