"""The server with inference threads that run wherever Linux likes: what `benchmarks.placement` compares with."""

from __future__ import annotations

import sys
from contextlib import nullcontext

from serving import placement

placement.place_of = lambda *_: nullcontext()  # before the server takes it from there

from serving.__main__ import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
