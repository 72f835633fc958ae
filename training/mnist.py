"""The MNIST handwritten digits, read from their original IDX files.

Source: Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits" (1998), which also
describes the IDX format: two zero bytes, a type code, the number of dimensions, the dimensions as big-endian
32-bit integers, then the values.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import struct
import urllib.request
import zlib
from pathlib import Path
from urllib.error import URLError

import numpy as np
import numpy.typing as npt
import torch

from training.dataset import Dataset, Images, split_held_out
from training.errors import DataError

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
CLASS_LABELS = tuple("0123456789")
MOST_HELD_OUT_PER_CLASS = 500
IDX_UINT8 = 0x08


def load(folder: Path) -> Dataset:
    """Read MNIST from `folder`, downloading first whichever of the four files is not there.

    Args:
        folder: Holds, or will hold, the four gzipped IDX files under their original names.

    Returns:
        55,000 training, 5,000 held-out and 10,000 test images of 28x28 grey pixels.

    Raises:
        DataError: A file is missing and no mirror gives it, or a file is damaged.
    """
    for name in SHA256:
        if not (folder / name).exists():
            download(name, folder)
    train, held_out = split_held_out(_read_part(folder, "train"), MOST_HELD_OUT_PER_CLASS)
    return Dataset(train, held_out, _read_part(folder, "t10k"), CLASS_LABELS)


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
        except (URLError, OSError) as error:
            failures.append(f"{mirror}: {error}")
            continue
        if _unpacked_sha256(content) == SHA256[name]:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
            return
        failures.append(f"{mirror}: wrong checksum")
    raise DataError(
        f"{folder / name} is missing and could not be downloaded ({'; '.join(failures)}). "
        f"Put the four MNIST files there, or name the folder that holds them with --data or CONSORT_DATA"
    )


def _unpacked_sha256(packed: bytes) -> str | None:
    try:
        return hashlib.sha256(gzip.decompress(packed)).hexdigest()
    except (OSError, EOFError, zlib.error):
        return None


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """Read one gzipped IDX file of unsigned bytes.

    Returns:
        uint8, of the shape that the file's header states.

    Raises:
        DataError: The file is no gzip file, no IDX file of bytes, or shorter or longer than its header says.
    """
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if len(content) < 4 or content[:3] != bytes([0, 0, IDX_UINT8]):
        raise DataError(f"{path} is no IDX file of unsigned bytes: it starts with {content[:4].hex(' ')}")
    dimensions = content[3]
    header_bytes = 4 + 4 * dimensions
    if len(content) < header_bytes:
        raise DataError(f"{path} ends inside its header")
    shape = struct.unpack(f">{dimensions}I", content[4:header_bytes])
    if len(content) - header_bytes != math.prod(shape):
        raise DataError(
            f"{path} holds {len(content) - header_bytes} values, its header promises {math.prod(shape)}"
        )
    return np.frombuffer(content, np.uint8, offset=header_bytes).reshape(shape)


def _read_part(folder: Path, prefix: str) -> Images:
    pixels = read_idx(folder / f"{prefix}-images-idx3-ubyte.gz")
    labels = read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz")
    return Images(torch.tensor(pixels).unsqueeze(1), torch.tensor(labels, dtype=torch.int64))
