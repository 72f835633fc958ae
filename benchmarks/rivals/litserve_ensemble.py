"""The members in LitServe: `python -m benchmarks.rivals.litserve_ensemble BUNDLE`.

It speaks HTTP alone. Pixels travel as base64 in JSON, quicker than lists of numbers; a worker a core, and calls
that wait run together. LitServe reads the annotations below as types, so that they must not be strings.
"""

import base64
import sys
from pathlib import Path
from typing import Any

import litserve
import numpy as np
import numpy.typing as npt

from benchmarks.rivals.members import Members, announce_when_ready, free_port
from machine.cores import available_cores

MAX_BATCH_CALLS = 64
MAX_DELAY_SECONDS = 0.001

Pixels = npt.NDArray[np.uint8]
Batch = tuple[Pixels, list[int]]
"""The images of several calls, and how many each has."""


class Ensemble(litserve.LitAPI):
    """Averages the members of a bundle."""

    def setup(self, device: str) -> None:
        """Open the members; called in each worker."""
        self._members = Members(Path(sys.argv[1]))

    def decode_request(self, request: dict[str, Any]) -> Pixels:
        """One call's images."""
        return np.frombuffer(base64.b64decode(request["pixels"]), np.uint8).reshape(request["shape"])

    def batch(self, inputs: list[Pixels]) -> Batch:
        """Several calls together."""
        return np.concatenate(inputs), [len(pixels) for pixels in inputs]

    def predict(self, batch: Batch) -> list[npt.NDArray[np.float32]]:
        """The answers to several calls."""
        pixels, sizes = batch
        return np.split(self._members.average(pixels), np.cumsum(sizes)[:-1])

    def unbatch(self, output: list[npt.NDArray[np.float32]]) -> list[npt.NDArray[np.float32]]:
        """Each call's own."""
        return output

    def encode_response(self, output: npt.NDArray[np.float32]) -> dict[str, Any]:
        """As JSON."""
        return {"probabilities": output.tolist()}


def main() -> None:
    """Serve until stopped."""
    port = free_port()
    announce_when_ready(f"http://127.0.0.1:{port}/health", port)
    api = Ensemble(max_batch_size=MAX_BATCH_CALLS, batch_timeout=MAX_DELAY_SECONDS)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=available_cores())
    server.run(host="127.0.0.1", port=port, log_level="error", generate_client_file=False)


if __name__ == "__main__":
    main()
