"""The members in MLServer, as a custom model: `python -m benchmarks.rivals.mlserver_ensemble BUNDLE`.

Pixels travel over gRPC as raw contents; a worker a core, and calls that wait run together.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from tempfile import mkdtemp

from mlserver import MLModel, MLServer, ModelSettings, Settings, types
from mlserver.codecs import NumpyCodec

from benchmarks.rivals.members import Members, announce_when_ready, free_port
from machine.cores import available_cores

MAX_BATCH_IMAGES = 64
MAX_DELAY_SECONDS = 0.001


class Ensemble(MLModel):
    """Averages the members of the bundle that its settings name."""

    async def load(self) -> bool:
        """Open the members; called in each worker."""
        self._members = Members(Path(self.settings.parameters.uri))
        return True

    async def predict(self, payload: types.InferenceRequest) -> types.InferenceResponse:
        """Answer one batch."""
        average = self._members.average(NumpyCodec.decode_input(payload.inputs[0]))
        outputs = [NumpyCodec.encode_output("probabilities", average)]
        return types.InferenceResponse(model_name=self.name, outputs=outputs)


def main() -> None:
    """Serve until stopped."""
    grpc_port, http_port = free_port(), free_port()
    settings = Settings(
        host="127.0.0.1",
        grpc_port=grpc_port,
        http_port=http_port,
        metrics_port=free_port(),
        metrics_dir=mkdtemp(),
        parallel_workers=available_cores(),
        debug=False,
    )
    model = ModelSettings(
        name="ensemble",
        implementation="benchmarks.rivals.mlserver_ensemble.Ensemble",
        parameters={"uri": sys.argv[1]},
        max_batch_size=MAX_BATCH_IMAGES,
        max_batch_time=MAX_DELAY_SECONDS,
    )
    announce_when_ready(f"http://127.0.0.1:{http_port}/v2/models/ensemble/ready", grpc_port)
    asyncio.run(serve(settings, model))


async def serve(settings: Settings, model: ModelSettings) -> None:
    """Run the server, which has to be made where a loop runs."""
    await MLServer(settings).start([model])


if __name__ == "__main__":
    main()
