"""An int8 bundle of a float32 one: `python -m benchmarks.int8 BUNDLE MODELS`.

`python -m export --precision int8` takes a run and refuses what loses accuracy; this takes the graphs of a bundle
whose run is not at hand, quantizes them in the same way, and leaves the measuring to others.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from pydantic_settings import BaseSettings, CliPositionalArg, SettingsConfigDict

from benchmarks.images import MNIST, read_images
from export.manifest import read_manifest, sha256_of, write_manifest
from export.proof import run_graph
from export.quantization import CALIBRATION_IMAGES, quantize_graph, spread


class Int8Settings(BaseSettings):
    """Quantize a bundle."""

    model_config = SettingsConfigDict(
        env_prefix="CONSORT_", cli_prog_name="python -m benchmarks.int8", use_attribute_docstrings=True
    )

    bundle: CliPositionalArg[Path]
    """Folder <models>/<name>/<version>."""
    models: CliPositionalArg[Path]
    """Folder of bundles to write it into, under the same name and version."""
    data: Path = MNIST
    """Images that the model was trained on."""


def main() -> None:
    """Write the bundle, and print where it lies."""
    settings = Int8Settings(_cli_parse_args=True)
    manifest = read_manifest(settings.bundle)
    folder = settings.models / manifest.name / str(manifest.version)
    shutil.copytree(settings.bundle, folder)
    calibration = spread(read_images(settings.data).train, CALIBRATION_IMAGES)
    pixels = np.frombuffer(manifest.self_check.pixels, np.uint8)
    pixels = pixels.reshape(manifest.self_check.images, *manifest.input.shape)
    members, answers = [], []
    for member in manifest.members:
        path = folder / member.file
        quantize_graph(path, calibration)
        members.append(member.model_copy(update={"sha256": sha256_of(path)}))
        answers.append(tuple(tuple(row) for row in run_graph(path, pixels).tolist()))
    check = manifest.self_check.model_copy(update={"member_probabilities": tuple(answers)})
    write_manifest(manifest.model_copy(update={"members": tuple(members), "self_check": check}), folder)
    print(folder)


if __name__ == "__main__":
    main()
