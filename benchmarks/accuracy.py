"""Send all test images through gRPC and compare with the manifest: `python -m benchmarks.accuracy`."""

from __future__ import annotations

import sys
from pathlib import Path

from pydantic_settings import BaseSettings, SettingsConfigDict

from benchmarks.images import MNIST, read_images
from serving.client import DEFAULT_TARGET, CallError, Client
from training.dataset import Images

CALL_IMAGES = 100


class AccuracySettings(BaseSettings):
    """Send all test images to a running server; fail if its accuracy is not the manifest's."""

    model_config = SettingsConfigDict(
        env_prefix="CONSORT_",
        cli_prog_name="python -m benchmarks.accuracy",
        use_attribute_docstrings=True,
        cli_kebab_case=True,
    )

    data: Path = MNIST
    """Images that the model was trained on: a folder of the four MNIST files, say."""
    target: str = DEFAULT_TARGET
    """Host and port of the server."""
    model: str = "mnist"
    """Name of the model; its latest version is measured."""
    wait_seconds: float = 10.0
    """How long to wait for a server that is still starting."""


def measure_served_accuracy(client: Client, images: Images, model: str = "mnist") -> float:
    """Share of labelled images that the server classifies right."""
    right = 0
    for first in range(0, len(images), CALL_IMAGES):
        pixels = images.pixels[first : first + CALL_IMAGES].numpy()
        found = client.classify(pixels, model=model).classifications
        labels = images.labels[first : first + CALL_IMAGES].tolist()
        right += sum(one.top_classes[0].index == label for one, label in zip(found, labels, strict=True))
    return right / len(images)


def main() -> int:
    """Print both figures; 0 if they are equal."""
    settings = AccuracySettings(_cli_parse_args=True)
    test = read_images(settings.data).test
    with Client(settings.target) as client:
        client.wait_until_ready(settings.wait_seconds)
        stated = client.get_model(settings.model).test
        served = measure_served_accuracy(client, test, settings.model)
    print(f"manifest: {stated.accuracy:.4%} of {stated.count:,} test images")
    print(f"served:   {served:.4%} of {len(test):,} test images")
    return 0 if served == stated.accuracy else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except CallError as error:
        sys.exit(str(error))
