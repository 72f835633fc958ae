"""MNIST's files are read exactly, fetched with their checksums, and refused when damaged."""

from __future__ import annotations

import gzip
import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from tests.digits import write_idx
from training import mnist
from training.errors import DataError


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that a local mirror serves, behind one that nothing listens on."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(mnist, "MIRRORS", ("http://127.0.0.1:1/", f"http://127.0.0.1:{server.server_port}/"))
        yield folder
        server.shutdown()


def test_idx_files_are_read_as_they_were_written(tmp_path: Path) -> None:
    values = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    write_idx(tmp_path / "values.gz", values)
    assert np.array_equal(mnist.read_idx(tmp_path / "values.gz"), values)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not gzip", "cannot be read"),
        (gzip.compress(bytes(100))[:-9], "cannot be read"),
        (gzip.compress(b""), "no IDX file"),
        (gzip.compress(bytes([0, 0, 0x0D, 1, 0, 0, 0, 0])), "it starts with 00 00 0d 01"),
        (gzip.compress(bytes([0, 0, 8, 3, 0, 0])), "ends inside its header"),
        (gzip.compress(bytes([0, 0, 8, 1, 0, 0, 0, 5, 1, 2, 3])), "holds 3 values, its header promises 5"),
    ],
)
def test_damaged_idx_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "file.gz").write_bytes(content)
    with pytest.raises(DataError, match=message):
        mnist.read_idx(tmp_path / "file.gz")


def test_loading_splits_into_three_parts(drawn_digits: Path) -> None:
    dataset = mnist.load(drawn_digits)
    assert (len(dataset.train), len(dataset.held_out), len(dataset.test)) == (580, 60, 200)
    assert dataset.image_shape == (1, 28, 28)
    assert dataset.class_labels == tuple("0123456789")


def test_a_missing_file_is_fetched_from_the_next_mirror(
    tmp_path: Path, mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_idx(mirror / "file.gz", np.zeros(3, np.uint8))
    content = gzip.decompress((mirror / "file.gz").read_bytes())
    monkeypatch.setitem(mnist.SHA256, "file.gz", hashlib.sha256(content).hexdigest())
    mnist.download("file.gz", tmp_path / "data")
    assert (tmp_path / "data" / "file.gz").read_bytes() == (mirror / "file.gz").read_bytes()


@pytest.mark.parametrize("content", [gzip.compress(b"something else"), b"not gzip"])
def test_a_file_with_another_checksum_is_not_kept(
    tmp_path: Path, mirror: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    (mirror / "file.gz").write_bytes(content)
    monkeypatch.setitem(mnist.SHA256, "file.gz", hashlib.sha256(b"right").hexdigest())
    with pytest.raises(DataError, match=r"refused.*wrong checksum.*--data or CONSORT_DATA"):
        mnist.download("file.gz", tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_real_mnist_is_what_it_should_be(real_mnist: Path) -> None:
    """The counts of digits in the published test set, and the checksums of all four files."""
    dataset = mnist.load(real_mnist)
    assert dataset.test.labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    for name, sha256 in mnist.SHA256.items():
        assert hashlib.sha256(gzip.decompress((real_mnist / name).read_bytes())).hexdigest() == sha256
