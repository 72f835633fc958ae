"""Checkpoints in, a verified bundle out.

Importing this package alone imports no torch: the server reads the manifest through `export.manifest`.
"""

import os

# Read when onnxruntime loads; it would otherwise report usage to its maker from official Linux builds.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
