"""MNIST's files are fetched with their checksums."""

from __future__ import annotations

import errno
import gzip
import hashlib
import os
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from tests.digits import write_digits, write_idx
from training import mnist
from training.arrays import load_idx
from training.dataset import is_on_plain_ground
from training.errors import DataError
from training.sources import load_dataset


class Mirror(SimpleHTTPRequestHandler):
    """Serves a folder; what is asked for below /broken/ breaks off."""

    def do_GET(self) -> None:
        if not self.path.startswith("/broken/"):
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Length", "10")
        self.end_headers()
        self.wfile.write(b"half")

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that a local mirror serves, behind one that nothing listens on and one that breaks off."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    handler = partial(Mirror, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        served = f"http://127.0.0.1:{server.server_port}/"
        monkeypatch.setattr(mnist, "MIRRORS", ("http://127.0.0.1:1/", f"{served}broken/", served))
        yield folder
        server.shutdown()


def test_a_missing_file_is_fetched_from_the_next_mirror(
    tmp_path: Path, mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_idx(mirror / "file.gz", np.zeros(3, np.uint8))
    content = gzip.decompress((mirror / "file.gz").read_bytes())
    monkeypatch.setitem(mnist.SHA256, "file.gz", hashlib.sha256(content).hexdigest())
    mnist.download("file.gz", tmp_path / "data")
    assert (tmp_path / "data" / "file.gz").read_bytes() == (mirror / "file.gz").read_bytes()


@pytest.mark.parametrize("content", [gzip.compress(b"something else", mtime=0), b"not gzip"])
def test_a_file_with_another_checksum_is_not_kept(
    tmp_path: Path, mirror: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    (mirror / "file.gz").write_bytes(content)
    monkeypatch.setitem(mnist.SHA256, "file.gz", hashlib.sha256(b"right").hexdigest())
    with pytest.raises(DataError, match=r"refused.*wrong checksum.*--data or CONSORT_DATA"):
        mnist.download("file.gz", tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_a_disk_that_fills_up_leaves_no_part_of_a_file(
    tmp_path: Path, mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_idx(mirror / "file.gz", np.zeros(3, np.uint8))
    content = gzip.decompress((mirror / "file.gz").read_bytes())
    monkeypatch.setitem(mnist.SHA256, "file.gz", hashlib.sha256(content).hexdigest())

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        mnist.download("file.gz", tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []


@pytest.fixture
def served_digits(mirror: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Drawn digits that the mirror serves as if they were MNIST."""
    write_digits(mirror, train=400, test=20)
    for name in mnist.SHA256:
        content = gzip.decompress((mirror / name).read_bytes())
        monkeypatch.setitem(mnist.SHA256, name, hashlib.sha256(content).hexdigest())
    return mirror


IMAGES, OTHERS = "train-images-idx3-ubyte", sorted(set(mnist.SHA256) - {"train-images-idx3-ubyte.gz"})


def test_files_that_are_there_are_kept_unpacked_or_not(tmp_path: Path, served_digits: Path) -> None:
    """Also beside what a download that was killed leaves."""
    (tmp_path / IMAGES).write_bytes(gzip.decompress((served_digits / f"{IMAGES}.gz").read_bytes()))
    (tmp_path / f"{OTHERS[0]}.unfinished").touch()
    load_dataset(tmp_path, download_mnist=True)
    assert {file.name for file in tmp_path.iterdir() if file.is_file()} == {IMAGES, *OTHERS}


@pytest.mark.usefixtures("served_digits")
@pytest.mark.parametrize("form", [IMAGES, f"{IMAGES}.gz"])
def test_files_of_another_data_set_are_not_completed(tmp_path: Path, form: str) -> None:
    (tmp_path / form).write_bytes(b"of Fashion-MNIST, say")
    with pytest.raises(DataError, match=f"MNIST's cannot be fetched beside {form}, which are not MNIST's"):
        load_dataset(tmp_path, download_mnist=True)
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == [form]


def test_a_complete_data_set_of_another_kind_is_left_alone(tmp_path: Path) -> None:
    write_digits(tmp_path, train=400, test=20)
    assert len(load_dataset(tmp_path, download_mnist=True).test) == 20


def test_real_mnist_is_what_it_should_be(real_mnist: Path) -> None:
    """The counts of digits in the published test set, and the checksums of all four files."""
    dataset = load_idx(real_mnist)
    assert dataset.test.labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert dataset.held_out.labels.bincount().tolist() == [500] * 10
    assert is_on_plain_ground(dataset.train)
    for name, sha256 in mnist.SHA256.items():
        assert hashlib.sha256(gzip.decompress((real_mnist / name).read_bytes())).hexdigest() == sha256
