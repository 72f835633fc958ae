"""Fetching the MNIST handwritten digits (Y. LeCun, C. Cortes, C. Burges, 1998)."""

from __future__ import annotations

import gzip
import hashlib
import urllib.request
import zlib
from http.client import HTTPException
from pathlib import Path

from training.errors import DataError
from training.files import write_bytes_whole

MIRRORS = (
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
)
# Of the unpacked contents: mirrors pack the same IDX bytes differently.
SHA256 = {
    "train-images-idx3-ubyte.gz": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte.gz": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte.gz": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte.gz": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


def fetch(folder: Path) -> None:
    """Download into `folder` whichever of the four files is not there, gzipped or not.

    Raises:
        DataError: No mirror gives one of them, or those that are there belong to another data set.
    """
    forms = [(name, folder / form) for name in SHA256 for form in (name, name.removesuffix(".gz"))]
    found = {name: path for name, path in forms if path.exists()}
    if missing := [name for name in SHA256 if name not in found]:
        _require_mnist(found, folder, missing)
    for name in missing:
        download(name, folder)


def download(name: str, folder: Path) -> None:
    """Fetch one file from the first mirror that serves it with the right checksum.

    Raises:
        DataError: No mirror does; the message names what each one answered.
    """
    failures = []
    for mirror in MIRRORS:
        try:
            with urllib.request.urlopen(mirror + name, timeout=60) as reply:  # noqa: S310 - https, above
                content = reply.read()
        except (OSError, HTTPException) as error:
            failures.append(f"{mirror}: {error}")
            continue
        if _unpacked_sha256(name, content) == SHA256[name]:
            folder.mkdir(parents=True, exist_ok=True)
            write_bytes_whole(folder / name, content)
            return
        failures.append(f"{mirror}: wrong checksum")
    raise DataError(
        f"{folder / name} is missing and could not be downloaded ({'; '.join(failures)}). "
        f"Put the four MNIST files there, or name the folder that holds them with --data or CONSORT_DATA"
    )


def _require_mnist(found: dict[str, Path], folder: Path, missing: list[str]) -> None:
    """Keep the files that are there, of Fashion-MNIST say, from being completed by those of MNIST."""
    others = [
        path.name for name, path in found.items() if _unpacked_sha256(path.name, path.read_bytes()) != SHA256[name]
    ]
    if others:
        raise DataError(
            f"{folder} lacks {', '.join(missing)}; MNIST's cannot be fetched beside {', '.join(others)}, which "
            f"are not MNIST's or damaged. Add what is missing, or name another folder with --data"
        )


def _unpacked_sha256(name: str, content: bytes) -> str | None:
    try:
        return hashlib.sha256(gzip.decompress(content) if name.endswith(".gz") else content).hexdigest()
    except (OSError, EOFError, zlib.error):
        return None
