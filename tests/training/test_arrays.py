"""IDX and NPZ files are read exactly; what is wrong with them is named, all at once."""

from __future__ import annotations

import gzip
import io
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.digits import write_digits, write_idx
from training.arrays import load_idx, load_npz
from training.errors import DataError
from training.idx import read_idx


def test_idx_files_are_read_as_they_were_written(tmp_path: Path) -> None:
    values = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    write_idx(tmp_path / "values.gz", values)
    assert np.array_equal(read_idx(tmp_path / "values.gz"), values)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not gzip", "cannot be read"),
        (gzip.compress(bytes(100), mtime=0)[:-9], "cannot be read"),
        (gzip.compress(b"", mtime=0), "no IDX file"),
        (gzip.compress(bytes([0, 0, 0x0D, 1, 0, 0, 0, 0]), mtime=0), "it starts with 00 00 0d 01"),
        (gzip.compress(bytes([0, 0, 8, 3, 0, 0]), mtime=0), "ends inside its header"),
        (
            gzip.compress(bytes([0, 0, 8, 1, 0, 0, 0, 5, 1, 2, 3]), mtime=0),
            "holds 3 values, its header promises 5",
        ),
    ],
)
def test_damaged_idx_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "file.gz").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_idx(tmp_path / "file.gz")


def test_idx_files_need_not_be_packed(tmp_path: Path) -> None:
    write_idx(tmp_path / "values.gz", np.arange(6, dtype=np.uint8))
    (tmp_path / "values").write_bytes(gzip.decompress((tmp_path / "values.gz").read_bytes()))
    assert read_idx(tmp_path / "values").tolist() == [0, 1, 2, 3, 4, 5]


def test_the_four_files_become_three_parts(drawn_digits: Path) -> None:
    dataset = load_idx(drawn_digits)
    assert (len(dataset.train), len(dataset.held_out), len(dataset.test)) == (580, 60, 200)
    assert dataset.image_shape == (1, 28, 28)
    assert dataset.class_labels == tuple("0123456789")


def test_a_label_that_no_count_of_classes_explains_is_refused(tmp_path: Path) -> None:
    """At once: a billion names of classes would fill the memory."""
    labels = np.arange(40) % 2
    labels[7] = 1_000_000_000
    np.savez(tmp_path / "data.npz", x_train=np.zeros((40, 4, 4), np.uint8), y_train=labels)
    with pytest.raises(DataError, match="labels go up to 1000000000, and there are 40 training images"):
        load_npz(tmp_path / "data.npz")


def test_all_that_is_wrong_with_idx_files_is_named(tmp_path: Path) -> None:
    write_digits(tmp_path, train=200, test=20)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(b"no gzip")
    write_idx(tmp_path / "train-labels-idx1-ubyte.gz", np.arange(199, dtype=np.uint8) % 10)
    with pytest.raises(DataError) as error:
        load_idx(tmp_path)
    named = str(error.value)
    assert re.search(r"t10k-labels-idx1-ubyte.gz cannot be read: .*No such file", named)
    assert re.search(r"t10k-images-idx3-ubyte.gz cannot be read: .*[Nn]ot a gzipped file", named)
    assert "train: 200 images came with 199 labels" in named


def write_npz(path: Path, **changes: Any) -> Path:
    """A valid file of 40 colour images, with some of its arrays exchanged, or left out (None)."""
    arrays: dict[str, Any] = {
        "x_train": (np.arange(40 * 8 * 8 * 3) % 251).astype(np.uint8).reshape(40, 8, 8, 3),
        "y_train": np.arange(40) % 2,
        "x_test": np.zeros((4, 8, 8, 3), np.uint8),
        "y_test": np.arange(4) % 2,
    } | changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def test_an_npz_file_of_colour_images(tmp_path: Path) -> None:
    dataset = load_npz(write_npz(tmp_path / "a.npz", class_labels=np.array(["cat", "dog"])))
    assert dataset.image_shape == (3, 8, 8)
    assert dataset.class_labels == ("cat", "dog")
    assert dataset.name == "NPZ file 'a'"
    assert (len(dataset.train), len(dataset.held_out), len(dataset.test)) == (36, 4, 4)
    red, green, blue = dataset.train.pixels[0, :, 0, 1].tolist()
    assert ((green - red) % 251, (blue - green) % 251) == (1, 1)


@pytest.mark.parametrize("shape", [(40, 8, 8), (40, 1, 8, 8), (40, 8, 8, 1)])
def test_grey_images_in_every_layout(tmp_path: Path, shape: tuple[int, ...]) -> None:
    pixels = np.zeros(shape, np.uint8)
    dataset = load_npz(write_npz(tmp_path / "a.npz", x_train=pixels, x_test=pixels[:4]))
    assert dataset.image_shape == (1, 8, 8)


@pytest.mark.parametrize(
    ("changes", "messages"),
    [
        ({"y_train": None}, ["x_train is there, y_train is not"]),
        ({"x_train": None, "y_train": None}, ["x_train and y_train are not there; found x_test, y_test"]),
        ({"y_train": np.arange(39) % 2}, ["train: 40 images came with 39 labels"]),
        ({"x_train": np.uint8(3)}, ["train: images have shape ()"]),
        ({"x_train": np.zeros((40, 8, 8, 3))}, ["train: images are float64, expected uint8"]),
        ({"x_train": np.zeros((40, 8, 8, 5), np.uint8)}, ["train: images have shape (40, 8, 8, 5)"]),
        ({"y_train": np.zeros(40)}, ["train: labels are float64 (40,), expected whole numbers"]),
        ({"y_train": np.arange(40) % 2 - 1}, ["train: labels begin at -1, expected 0 or more"]),
        (
            {"x_test": np.zeros((4, 9, 8, 3), np.uint8)},
            ["differ in channels, height, width: train (3, 8, 8), test (3, 9, 8)"],
        ),
        ({"y_train": np.zeros(40, int), "y_test": np.zeros(4, int)}, ["one class only"]),
        ({"class_labels": np.array(["a", "b", "c"])}, ["class_labels has 3 names for 2 classes"]),
        ({"class_labels": np.array([], "U1")}, ["class_labels has 0 names for 2 classes"]),
        ({"class_labels": np.array("a")}, ["class_labels are <U1 (), expected text or numbers (count,)"]),
        ({"class_labels": np.array([True, False])}, ["class_labels are bool (2,), expected text or numbers"]),
        ({"class_labels": np.array([b"a", b"\xff"])}, ["class_labels are no UTF-8 text"]),
        (
            {"x_train": np.zeros((40, 8, 8, 3)), "y_test": np.arange(3), "x_val": np.zeros((4, 8, 8), np.uint8)},
            ["x_val is there, y_val is not", "train: images are float64", "test: 4 images came with 3 labels"],
        ),
        (
            {"class_labels": np.array(["a", "b", "c"]), "y_test": np.zeros(4, int)},
            ["class_labels has 3 names for 2 classes", "class '1' has no test images"],
        ),
    ],
)
def test_everything_that_is_wrong_is_named(tmp_path: Path, changes: dict[str, Any], messages: list[str]) -> None:
    with pytest.raises(DataError) as error:
        load_npz(write_npz(tmp_path / "a.npz", **changes))
    for message in messages:
        assert message in str(error.value)


def test_arrays_of_python_objects_are_refused(tmp_path: Path) -> None:
    """They would be unpickled, and that can run code."""
    np.savez(tmp_path / "a.npz", x_train=np.array([{}], dtype=object))
    with pytest.raises(DataError, match="no readable NPZ file"):
        load_npz(tmp_path / "a.npz")


def test_labels_may_be_bytes(tmp_path: Path) -> None:
    labels = np.array(["cat", "b\u00e4r"]).astype("U3")
    dataset = load_npz(write_npz(tmp_path / "a.npz", class_labels=np.strings.encode(labels, "utf-8")))
    assert dataset.class_labels == ("cat", "b\u00e4r")


def packed() -> bytes:
    """A valid file."""
    file = io.BytesIO()
    np.savez_compressed(file, x_train=np.zeros((40, 8, 8), np.uint8), y_train=np.arange(40) % 2)
    return file.getvalue()


def damaged(method: int) -> bytes:
    """A file whose first array is said to be packed by another method."""
    file = bytearray(packed())
    directory = file.index(b"PK\x01\x02")
    file[8], file[directory + 10] = method, method
    return bytes(file)


def test_a_single_array_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros(3))
    with pytest.raises(DataError, match=r"a.npy is no NPZ file; expected an NPZ file with x_train and y_train"):
        load_npz(tmp_path / "a.npy")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK not a zip",
        packed()[:-30],
        packed()[:60] + b"\xff" * 20 + packed()[80:],
        damaged(method=0),
        damaged(method=99),
    ],
    ids=["empty", "no zip", "cut", "no deflated data", "wrong checksum", "unknown method"],
)
def test_what_is_no_npz_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"is no (readable )?NPZ file.* expected an NPZ file with x_train"):
        load_npz(tmp_path / "a.npz")


def with_header(header: str) -> bytes:
    """A file of one array that is described so, and has no bytes."""
    array = io.BytesIO()
    np.lib.format.write_array_header_1_0(array, {"descr": "|u1", "fortran_order": False, "shape": (1,)})
    described = array.getvalue()[:10] + header.ljust(117).encode() + b"\n"
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x_train.npy", described)
    return file.getvalue()


@pytest.mark.parametrize(
    "header",
    ["{'descr': '|u1', 'fortran_order': False, 'shape': (10000000000000, 8, 8), }", "{'descr': ('|u1', (((("],
    ids=["more than there is memory for", "damaged"],
)
def test_headers_that_cannot_be_are_refused(tmp_path: Path, header: str) -> None:
    (tmp_path / "a.npz").write_bytes(with_header(header))
    with pytest.raises(DataError, match=r"a.npz is no readable NPZ file"):
        load_npz(tmp_path / "a.npz")


def test_what_is_no_array_in_the_file_is_named(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "a.npz")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("class_labels", "cat, dog")
    with pytest.raises(DataError, match="class_labels is no array"):
        load_npz(path)


def test_images_without_pixels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train: images have shape \(100, 0, 28\), so no pixels"):
        load_npz(
            write_npz(tmp_path / "a.npz", x_train=np.zeros((100, 0, 28), np.uint8), y_train=np.arange(100) % 2)
        )
