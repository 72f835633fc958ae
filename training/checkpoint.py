"""Trained members on disk: one safetensors file with the weights and, in its header, how to rebuild the network.

Safetensors and JSON only: loading a checkpoint never runs code from it.
"""

from __future__ import annotations

from pathlib import Path

import safetensors
import safetensors.torch
from pydantic import BaseModel, ValidationError
from torch import Tensor

from training.architectures import Network, PixelStatistics, build_network
from training.errors import CheckpointError
from training.files import write_bytes_whole

HEADER_KEY = "consort"


class CheckpointHeader(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """All that is needed, beside the weights, to rebuild a member."""

    architecture: str
    """A name in `training.architectures.ARCHITECTURES`."""
    image_shape: tuple[int, int, int]
    """Channels, height, width."""
    classes: int
    """Number of classes."""
    pixel_mean: tuple[float, ...]
    """Of the training pixels, one a channel, 0..255."""
    pixel_std: tuple[float, ...]
    """Of the training pixels, one a channel, 0..255."""
    strokes: bool
    """Whether images are strokes on a plain ground; see `training.architectures.Normalize`."""
    seed: int
    """What the member's initialization, order of images, distortions and dropout were drawn from."""

    def build(self) -> Network:
        """An untrained network of this description."""
        statistics = PixelStatistics(self.pixel_mean, self.pixel_std)
        return build_network(self.architecture, self.image_shape, self.classes, statistics, self.strokes)


def save_checkpoint(path: Path, network: Network, header: CheckpointHeader) -> None:
    """Write a member so that `path` holds either nothing or all of it."""
    save_tensors(path, network.state_dict(), {HEADER_KEY: header.model_dump_json()})


def load_checkpoint(path: Path) -> tuple[Network, CheckpointHeader]:
    """Rebuild a trained member.

    Raises:
        CheckpointError: The file is missing, damaged, or was not written by `save_checkpoint`.
    """
    tensors, metadata = load_tensors(path)
    try:
        header = CheckpointHeader.model_validate_json(metadata.get(HEADER_KEY, ""))
        network = header.build()
        network.load_state_dict(tensors)
    except (ValidationError, RuntimeError) as error:
        raise CheckpointError(f"{path} does not describe a network: {error}") from error
    return network, header


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write tensors and text into one safetensors file, whole or not at all."""
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    # Not by the library's own file, which nobody else could read, whatever the umask.
    write_bytes_whole(path, safetensors.torch.save(contiguous, metadata))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read back what `save_tensors` wrote.

    Raises:
        CheckpointError: The file is missing or damaged.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path} is no readable checkpoint: {error}") from error
