"""What every rival runs: the members of a bundle on one thread each, and their average."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

POLL_SECONDS = 0.1


class Members:
    """The sessions of one bundle."""

    def __init__(self, bundle: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # the rival's own workers fill the cores
        self._sessions = [onnxruntime.InferenceSession(path, options) for path in sorted(bundle.glob("*.onnx"))]

    def average(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """uint8 (images, channels, height, width) to float32 (images, classes)."""
        outputs = [session.run(None, {"pixels": pixels})[0] for session in self._sessions]
        return np.asarray(np.mean(outputs, axis=0))


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def announce_when_ready(health_url: str, port: int) -> None:
    """Say on stderr that the server on `port` is ready, as ours does, once a URL answers with 200."""

    def wait() -> None:
        """Ask until it does."""
        while True:
            try:
                urllib.request.urlopen(health_url).close()  # noqa: S310  our own address
            except (urllib.error.URLError, ConnectionError):
                time.sleep(POLL_SECONDS)
            else:
                line = {"event": "ready", "grpc_port": port, "metrics_port": 0}
                print("\n" + json.dumps(line), file=sys.stderr, flush=True)
                return

    threading.Thread(target=wait, daemon=True).start()
