"""What most people write first: a gRPC thread pool, and six onnxruntime sessions with default options in sequence.

`python -m benchmarks.naive` takes `Classify` calls with raw uint8 pixels and answers with probabilities alone. It
is what the server is compared with, never what anybody should run.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import onnxruntime
from pydantic_settings import BaseSettings, SettingsConfigDict

from protos.consort.v1 import classifier_pb2 as pb


class NaiveSettings(BaseSettings):
    """Serve one bundle naively."""

    model_config = SettingsConfigDict(
        cli_prog_name="python -m benchmarks.naive", use_attribute_docstrings=True, cli_kebab_case=True
    )

    bundle: Path = Path("models/mnist/2")
    """Folder of ONNX files."""
    grpc_port: int = 8001
    """Port for gRPC; 0 takes a free one."""
    metrics_port: int = 0
    """Taken for the sake of the command that starts all servers alike; there are no metrics."""


class NaiveServicer:
    """Runs every call by itself, in the thread that took it."""

    def __init__(self, bundle: Path) -> None:
        self._sessions = [onnxruntime.InferenceSession(path) for path in sorted(bundle.glob("*.onnx"))]

    def classify(self, request: pb.ClassifyRequest, context: grpc.ServicerContext) -> pb.ClassifyResponse:
        """Average the members' probabilities."""
        pixels = np.frombuffer(request.raw.pixels, np.uint8).reshape(tuple(request.raw.shape))
        average = np.mean([session.run(None, {"pixels": pixels})[0] for session in self._sessions], axis=0)
        return pb.ClassifyResponse(
            classifications=[pb.Classification(probabilities=row) for row in average.tolist()]
        )


def main() -> None:
    """Serve until stopped."""
    settings = NaiveSettings(_cli_parse_args=True)
    server = grpc.server(ThreadPoolExecutor())
    handler = grpc.unary_unary_rpc_method_handler(
        NaiveServicer(settings.bundle).classify,
        request_deserializer=pb.ClassifyRequest.FromString,
        response_serializer=pb.ClassifyResponse.SerializeToString,
    )
    service = "consort.v1.Classifier"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Classify": handler}),))
    port = server.add_insecure_port(f"127.0.0.1:{settings.grpc_port}")
    server.start()
    print(json.dumps({"event": "ready", "grpc_port": port, "metrics_port": 0}), file=sys.stderr, flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
