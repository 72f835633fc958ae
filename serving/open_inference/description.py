"""What the server and its models are and have done, as messages of the Open Inference Protocol."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version

from export.manifest import INPUT_NAME, Manifest
from protos.open_inference.v2 import grpc_service_pb2 as pb
from serving.metrics import read_metric
from serving.metrics.models import ModelMetrics
from serving.open_inference.outputs import OUTPUTS
from serving.open_inference.request import INPUT_DATATYPE
from serving.settings import ServerSettings

SERVER = "consort"
VERSION = version(SERVER)
PLATFORM = "consort_onnx"
EXTENSIONS = ("classification", "model_configuration", "model_repository", "statistics")
"""By the names that Triton gives them; its clients look for them."""
ANY = -1
"""Stands for the number of images in a shape."""


def encode_server() -> pb.ServerMetadataResponse:
    """Name, version and extensions."""
    return pb.ServerMetadataResponse(name=SERVER, version=VERSION, extensions=EXTENSIONS)


def encode_metadata(manifest: Manifest, versions: Sequence[int]) -> pb.ModelMetadataResponse:
    """A model's tensors, and all its versions."""
    tensor = pb.ModelMetadataResponse.TensorMetadata
    return pb.ModelMetadataResponse(
        name=manifest.name,
        versions=map(str, versions),
        platform=PLATFORM,
        inputs=[tensor(name=INPUT_NAME, datatype=INPUT_DATATYPE, shape=(ANY, *manifest.input.shape))],
        outputs=[
            tensor(name=output.name, datatype=output.datatype, shape=(ANY, *output.axes(manifest)))
            for output in OUTPUTS.values()
        ],
    )


def encode_config(manifest: Manifest, settings: ServerSettings) -> pb.ModelConfig:
    """A model's tensors, and how it is served."""
    return pb.ModelConfig(
        name=manifest.name,
        platform=PLATFORM,
        backend=SERVER,
        max_batch_size=settings.max_call_images,
        input=[
            pb.ModelInput(
                name=INPUT_NAME,
                data_type=_type_of(INPUT_DATATYPE),
                format=pb.ModelInput.FORMAT_NCHW,
                dims=manifest.input.shape,
            )
        ],
        output=[
            pb.ModelOutput(name=output.name, data_type=_type_of(output.datatype), dims=output.axes(manifest))
            for output in OUTPUTS.values()
        ],
        dynamic_batching=pb.ModelDynamicBatching(
            max_queue_delay_microseconds=round(settings.max_delay_seconds * 1e6)
        ),
    )


def encode_statistics(manifest: Manifest, metrics: ModelMetrics) -> pb.ModelStatistics:
    """What the metrics hold of a model."""
    stages = {stage: read_metric(metric) for stage, metric in metrics.stages.items()}
    calls = stages["total"]["count"]
    parts = sum(stages[stage]["sum"] for stage in ("decode", "queue", "inference"))
    return pb.ModelStatistics(
        name=manifest.name,
        version=str(manifest.version),
        last_inference=int(read_metric(metrics.last_answer)[""] * 1e3),
        inference_count=int(sum(read_metric(metric)["total"] for metric in metrics.predictions)),
        execution_count=int(read_metric(metrics.batch_images)["count"]),
        inference_stats=pb.InferStatistics(
            success=_duration(calls, stages["total"]["sum"]),
            queue=_duration(stages["queue"]["count"], stages["queue"]["sum"]),
            compute_input=_duration(stages["decode"]["count"], stages["decode"]["sum"]),
            compute_infer=_duration(stages["inference"]["count"], stages["inference"]["sum"]),
            # The rest; a call that is recorded meanwhile must not make it negative.
            compute_output=_duration(calls, max(stages["total"]["sum"] - parts, 0.0)),
        ),
    )


def _duration(count: float, seconds: float) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=int(count), ns=round(seconds * 1e9))


def _type_of(datatype: str) -> pb.DataType.ValueType:
    return pb.DataType.Value(f"TYPE_{datatype}")
