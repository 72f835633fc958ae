"""A bundle in, predictions over gRPC out. Nothing here imports torch."""

import os

# Read when onnxruntime loads; it would otherwise report usage to its maker from official Linux builds.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
