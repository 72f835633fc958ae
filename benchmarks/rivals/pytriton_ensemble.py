"""The members in Triton, as Python functions: `python -m benchmarks.rivals.pytriton_ensemble BUNDLE`.

PyTriton brings Triton's server of C++, which takes calls over gRPC, batches those that wait, and hands the batches
to functions in one Python process, a thread a core. Triton's own onnxruntime backend is not among what it brings.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from benchmarks.rivals.members import Members, announce_when_ready, free_port
from export.manifest import read_manifest
from machine.cores import available_cores

MAX_BATCH_IMAGES = 64
MAX_DELAY_MICROSECONDS = 1000

Infer = Callable[..., dict[str, npt.NDArray[np.float32]]]


def main() -> None:
    """Serve until stopped."""
    bundle = Path(sys.argv[1])
    manifest = read_manifest(bundle)
    grpc_port, http_port = free_port(), free_port()
    config = TritonConfig(
        grpc_address="127.0.0.1",
        grpc_port=grpc_port,
        http_address="127.0.0.1",
        http_port=http_port,
        metrics_port=free_port(),
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name="ensemble",
            infer_func=[answer_with(bundle) for _ in range(available_cores())],
            inputs=[Tensor(name="pixels", dtype=np.uint8, shape=manifest.input.shape)],
            outputs=[Tensor(name="probabilities", dtype=np.float32, shape=(len(manifest.class_labels),))],
            config=ModelConfig(
                max_batch_size=MAX_BATCH_IMAGES,
                batcher=DynamicBatcher(max_queue_delay_microseconds=MAX_DELAY_MICROSECONDS),
            ),
        )
        announce_when_ready(f"http://127.0.0.1:{http_port}/v2/models/ensemble/ready", grpc_port)
        triton.serve()


def answer_with(bundle: Path) -> Infer:
    """What one instance runs, with sessions of its own."""
    members = Members(bundle)

    def answer(pixels: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.float32]]:
        """Answer one batch."""
        return {"probabilities": members.average(pixels)}

    batched: Infer = batch(answer)
    return batched


if __name__ == "__main__":
    main()
