"""What excites each unit most is found in one pass, and written as sheets with an index."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch import nn

from training.architectures import Network, Normalize, PixelStatistics
from training.dataset import Dataset
from training.inspect import main
from training.maximisation import maximise
from training.run import Run
from training.sheets import sheet_row, tile_size
from training.sources import load_dataset
from training.units import find_strongest, find_unit_layers


def bright_and_dark(dense_units: int = 3) -> Network:
    """Its convolution's channels are the pixel and its negative; its dense layer sums them up."""
    convolution = nn.Conv2d(1, 2, 1, bias=False)
    dense = nn.Linear(8, dense_units)
    with torch.no_grad():
        convolution.weight.copy_(torch.tensor([1.0, -1.0]).view(2, 1, 1, 1))
        dense.weight.fill_(1)
    normalize = Normalize(PixelStatistics((0.0,), (1.0,)), strokes=False)
    body = nn.Sequential(convolution, nn.ReLU(), nn.Flatten(), dense, nn.ReLU(), nn.Linear(dense_units, 2))
    return Network(normalize, body).eval()


def load_layer(folder: Path, layer: str) -> tuple[dict[str, Any], npt.NDArray[np.uint8]]:
    content = json.loads((folder / f"inspect/member-1/{layer}.json").read_text())
    return content, np.asarray(Image.open(folder / f"inspect/member-1/{layer}.png"))


@pytest.fixture(scope="module")
def dataset(inspected_run: Path) -> Dataset:
    return load_dataset(Run.open(inspected_run).settings.data_path)


def test_the_strongest_images_are_those_with_the_largest_value_anywhere_in_the_map() -> None:
    """Through more than one batch; of images that answer alike, the first ones."""
    pixels = torch.full((1100, 1, 2, 2), 100, dtype=torch.uint8)
    pixels[[3, 700, 1099], 0, 1, 0] = torch.tensor([200, 250, 220], dtype=torch.uint8)
    pixels[[1, 900]] = torch.tensor([40, 30], dtype=torch.uint8).view(2, 1, 1, 1)
    network, seen = bright_and_dark(), list[int]()
    convolution, *_ = find_strongest(network, find_unit_layers(network, 512), pixels, seen.append)
    assert seen == [500, 500, 100]
    assert convolution.images[0].tolist() == [700, 1099, 3, 0, 2, 4, 5, 6, 7]
    assert convolution.values[0].tolist() == [250, 220, 200, *[100] * 6]
    assert convolution.images[1, :3].tolist() == [900, 1, 0]
    assert convolution.values[1, :3].tolist() == [-30, -40, -100]


def test_few_images_are_all_of_them() -> None:
    network = bright_and_dark()
    found = find_strongest(network, find_unit_layers(network, 512), torch.zeros(2, 1, 2, 2).byte(), lambda _: None)
    assert [tuple(one.images.shape) for one in found] == [(2, 2), (3, 2), (2, 2)]


@pytest.mark.parametrize(
    ("most", "titles"), [(3, ["convolution 1", "dense 1", "dense 2"]), (1, ["convolution 1", "dense 2"])]
)
def test_large_dense_layers_are_left_out_and_classes_never(most: int, titles: list[str]) -> None:
    assert [layer.title for layer in find_unit_layers(bright_and_dark(), most)] == titles


def test_maximisation_finds_the_light_for_one_channel_and_the_dark_for_the_other() -> None:
    """In the middle of the map: there alone the value is pushed; the blur lets its neighbours have some of it."""
    network = bright_and_dark()
    pictures, answers = maximise(network, find_unit_layers(network, 512)[0], (1, 9, 9))
    assert (pictures.shape, pictures.dtype) == ((2, 1, 9, 9), torch.uint8)
    assert pictures[0, 0].argmax() == 4 * 9 + 4
    assert pictures[0, 0, 4, 4] > 150
    assert answers[0] == pictures[0].max()
    assert pictures[1].max() < 16


def test_a_sheet_has_a_row_for_each_unit_with_the_very_images_and_the_classes_answers(
    inspected_run: Path, dataset: Dataset
) -> None:
    """Answers are those of the network itself, asked for each image alone."""
    content, sheet = load_layer(inspected_run, "dense-2")
    assert sheet.shape == (10 * 28, 10 * 28)
    network, _ = Run.open(inspected_run).load_members()[0]
    with torch.inference_mode():
        logits = network.eval()(dataset.train.pixels.float())
    for unit in range(10):
        expected = logits[:, unit].sort(descending=True).values[:9]
        assert content["values"][unit] == pytest.approx(expected.tolist(), abs=1e-3)
        for place, image in enumerate(content["images"][unit]):
            tile = sheet[unit * 28 : unit * 28 + 28, place * 28 : place * 28 + 28]
            assert np.array_equal(tile, dataset.train.pixels[image, 0].numpy())
            assert content["labels"][unit][place] == dataset.train.labels[image]


@pytest.mark.parametrize(("layer", "units"), [("convolution-1", 16), ("convolution-3", 64), ("dense-2", 10)])
def test_what_was_made_for_a_unit_excites_it_more_than_a_blank_sheet(
    inspected_run: Path, layer: str, units: int
) -> None:
    content, _ = load_layer(inspected_run, layer)
    network, header = Run.open(inspected_run).load_members()[0]
    found = next(one for one in find_unit_layers(network.eval(), 64) if one.title.replace(" ", "-") == layer)
    blank = torch.zeros(1, *header.image_shape).byte()
    (answers,) = find_strongest(network, [found], blank, lambda _: None)
    assert len(content["maximised"]) == units
    assert all(
        made > answer for made, answer in zip(content["maximised"], answers.values[:, 0].tolist(), strict=True)
    )


def test_the_index_tells_the_members_and_how_all_was_found(inspected_run: Path, dataset: Dataset) -> None:
    index = json.loads((inspected_run / "inspect/index.json").read_text())
    (member,) = index["members"]
    assert (member["architecture"], member["seed"]) == ("cnn_small", 1001)
    titles = ["convolution 1", "convolution 2", "convolution 3", "dense 2"]
    assert [layer["title"] for layer in member["layers"]] == titles
    assert (index["images"], index["tile"]) == (len(dataset.train), [28, 28])
    assert "back to the ground" in index["regularisation"]
    assert "blurred" in index["regularisation"]


def test_large_images_are_shrunk_in_proportion_and_missing_ones_are_black() -> None:
    assert tile_size((3, 256, 128)) == (64, 32)
    row = sheet_row(torch.full((2, 3, 256, 128), 200, dtype=torch.uint8), (64, 32))
    assert row.shape == (3, 64, 10 * 32)
    assert set(row.flatten().tolist()) == {0, 200}
    assert row[0, 0, ::32].tolist() == [200, *[0] * 8, 200]


def test_a_second_look_replaces_the_first_as_a_whole(
    inspected_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(inspected_run, folder)
    (folder / "inspect/stale").touch()
    assert main([str(folder), "--most-dense-units", "1", "--threads", "1"]) == 0
    assert "member 1 of 1: 580 images, 122 units, " in capsys.readouterr().out
    for file in (inspected_run / "inspect").rglob("*.json"):
        assert (folder / file.relative_to(inspected_run)).read_bytes() == file.read_bytes()
    assert not (folder / "inspect/stale").exists()
    assert not (folder / "inspect.unfinished").exists()


def spoil(folder: Path, how: str) -> list[str]:
    """Make a run unfit; gives further arguments."""
    match how:
        case "unfinished":
            (folder / "summary.json").unlink()
        case "damaged":
            (folder / "member-1/checkpoint.safetensors").write_bytes(b"no tensors")
        case "in the way":
            shutil.rmtree(folder / "inspect")
            (folder / "inspect").touch()
        case "moved":
            return ["--data", str(folder / "nowhere")]
        case "none":
            shutil.rmtree(folder)
    return []


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("none", "holds no run"),
        ("unfinished", "Finish it with: python -m training.fit --resume"),
        ("damaged", "checkpoint.safetensors"),
        ("in the way", "inspect is in the way: it is no folder; move it"),
        ("moved", "there are no images at"),
    ],
)
def test_what_stops_it_is_said_in_one_line_before_anything_is_written(
    inspected_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str, message: str
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(inspected_run, folder)
    more = spoil(folder, how)
    before = sorted(folder.rglob("*"))
    assert main([str(folder), *more]) == 1
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert sorted(folder.rglob("*")) == before


def test_other_images_than_the_runs_are_refused(
    inspected_run: Path, drawn_digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(drawn_digits, tmp_path / "data")
    for part in ("images-idx3", "labels-idx1"):
        shutil.copy(drawn_digits / f"t10k-{part}-ubyte.gz", tmp_path / f"data/train-{part}-ubyte.gz")
    assert main([str(inspected_run), "--data", str(tmp_path / "data")]) == 1
    assert "are not the images that" in capsys.readouterr().err
