"""A checkpoint rebuilds its network exactly, or is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from training.architectures import ARCHITECTURES
from training.checkpoint import (
    HEADER_KEY,
    CheckpointHeader,
    load_checkpoint,
    save_checkpoint,
    save_tensors,
)
from training.errors import CheckpointError


def header(architecture: str = "cnn_slim") -> CheckpointHeader:
    return CheckpointHeader(
        architecture=architecture,
        image_shape=(1, 28, 28),
        classes=10,
        pixel_mean=(33.0,),
        pixel_std=(78.0,),
        strokes=True,
        seed=7,
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_rebuilt_network_computes_the_same(tmp_path: Path, architecture: str) -> None:
    network = header(architecture).build()
    save_checkpoint(tmp_path / "c", network, header(architecture))
    rebuilt, found = load_checkpoint(tmp_path / "c")
    pixels = torch.rand(3, 1, 28, 28) * 255
    assert found == header(architecture)
    assert torch.equal(network.eval()(pixels), rebuilt.eval()(pixels))


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c", header().build(), header())
    (tmp_path / "c").write_bytes((tmp_path / "c").read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="no readable checkpoint"):
        load_checkpoint(tmp_path / "c")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no readable checkpoint"):
        load_checkpoint(tmp_path / "c")


@pytest.mark.parametrize("metadata", [{}, {HEADER_KEY: "{}"}, {HEADER_KEY: header("linear").model_dump_json()}])
def test_tensors_of_another_network_are_refused(tmp_path: Path, metadata: dict[str, str]) -> None:
    save_tensors(tmp_path / "c", header().build().state_dict(), metadata)
    with pytest.raises(CheckpointError, match="does not describe a network"):
        load_checkpoint(tmp_path / "c")


def test_nothing_unfinished_is_left_beside_a_checkpoint(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c", header().build(), header())
    assert [file.name for file in tmp_path.iterdir()] == ["c"]
