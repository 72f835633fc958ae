"""The `consort.v1.Classifier` service: decode, ask, encode."""

from __future__ import annotations

import threading
import time
from concurrent.futures import CancelledError

import grpc

from export.manifest import Manifest
from protos.consort.v1 import classifier_pb2 as pb
from protos.consort.v1 import classifier_pb2_grpc
from serving.batch import Answer, Effort
from serving.codec import decode_images, encode_classifications, encode_model, encode_summary
from serving.ensemble import Pixels
from serving.errors import CallerGone, InvalidRequest, Overloaded
from serving.models import Model, Models
from serving.settings import ServerSettings

RETRY_SECONDS = 0.1
"""When to try again after too many calls were in progress."""


class ClassifierServicer(classifier_pb2_grpc.ClassifierServicer):
    """Answers calls from the models that are loaded. Errors become statuses in the interceptor."""

    def __init__(self, models: Models, settings: ServerSettings) -> None:
        self._models = models
        self._settings = settings
        self._free_calls = threading.Semaphore(settings.max_concurrent_calls)

    def Classify(self, request: pb.ClassifyRequest, context: grpc.ServicerContext) -> pb.ClassifyResponse:
        """Average the members' answers to a batch of images."""
        if not self._free_calls.acquire(blocking=False):
            limit = self._settings.max_concurrent_calls
            raise Overloaded(f"{limit} calls are in progress, which is the limit; try again later", RETRY_SECONDS)
        try:
            return self._classify(request, context)
        finally:
            self._free_calls.release()

    def _classify(self, request: pb.ClassifyRequest, context: grpc.ServicerContext) -> pb.ClassifyResponse:
        arrived = time.perf_counter()
        model = self._models.find(request.model_name, request.model_version)
        manifest = model.manifest
        pixels = decode_images(request, manifest.input, self._settings, context.is_active)
        decode_seconds = time.perf_counter() - arrived
        answer = _wait(model, pixels, _effort_of(request, manifest), context)
        verdict = answer.verdict
        response = pb.ClassifyResponse(
            classifications=encode_classifications(
                verdict, manifest.class_labels, request.top_classes, request.return_members
            ),
            model_name=manifest.name,
            model_version=manifest.version,
            timing=pb.Timing(
                decode_seconds=decode_seconds,
                queue_seconds=answer.queue_seconds,
                inference_seconds=answer.inference_seconds,
                total_seconds=time.perf_counter() - arrived,
            ),
        )
        model.metrics.count(verdict)
        model.metrics.time(response.timing)
        return response

    def ListModels(self, request: pb.ListModelsRequest, context: grpc.ServicerContext) -> pb.ListModelsResponse:
        """Name all models that are loaded."""
        return pb.ListModelsResponse(
            models=[encode_summary(model.manifest, self._models.is_latest(model)) for model in self._models]
        )

    def GetModel(self, request: pb.GetModelRequest, context: grpc.ServicerContext) -> pb.GetModelResponse:
        """Describe one model."""
        model = self._models.find(request.name, request.version)
        return encode_model(model, self._models.is_latest(model))


def _effort_of(request: pb.ClassifyRequest, manifest: Manifest) -> Effort:
    members = len(manifest.members)
    if request.max_members > members:
        raise InvalidRequest(f"max_members is {request.max_members}, expected at most {members}, or 0 for all")
    return Effort(request.max_members or members, request.early_stop)


def _wait(model: Model, pixels: Pixels, effort: Effort, context: grpc.ServicerContext) -> Answer:
    """Queue the images and wait for their turn; a caller that goes before it takes them out of the queue."""
    future = model.batcher.submit(pixels, effort, context.time_remaining())

    def drop() -> None:
        future.cancel()

    if not context.add_callback(drop):
        drop()  # the caller had gone already
    try:
        return future.result()
    except CancelledError as error:
        raise CallerGone("nobody waits for the answer any more") from error
