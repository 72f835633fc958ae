"""MNIST's files are fetched with their checksums."""

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
from training.arrays import load_idx
from training.dataset import is_on_plain_ground
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


def test_real_mnist_is_what_it_should_be(real_mnist: Path) -> None:
    """The counts of digits in the published test set, and the checksums of all four files."""
    dataset = load_idx(real_mnist)
    assert dataset.test.labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert dataset.held_out.labels.bincount().tolist() == [500] * 10
    assert is_on_plain_ground(dataset.train)
    for name, sha256 in mnist.SHA256.items():
        assert hashlib.sha256(gzip.decompress((real_mnist / name).read_bytes())).hexdigest() == sha256
