"""IDX files, the format of MNIST and of the data sets made after it.

Source: Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits" (1998): two zero bytes, a type
code, the number of dimensions, the dimensions as big-endian 32-bit integers, then the values.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from training.errors import DataError

UINT8_CODE = 0x08


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """Read one IDX file of unsigned bytes, gzipped if its name ends in .gz.

    Returns:
        uint8, of the shape that the file's header states.

    Raises:
        DataError: The file is damaged, no IDX file of bytes, or shorter or longer than its header says.
    """
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if len(content) < 4 or content[:3] != bytes([0, 0, UINT8_CODE]):
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
