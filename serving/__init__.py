"""A bundle in, predictions over gRPC out. Nothing here imports torch."""

import os

# Read when onnxruntime loads; it would otherwise report usage to its maker from official Linux builds.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
# Read when gRPC loads; its core's own log lines would come beside the errors that it raises.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
