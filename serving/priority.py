"""Who goes first where threads want more than the cores have."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

NICENESS = 10
"""How far threads that compute stand back: one of them gets a ninth of what another gets of the same core."""


def stand_back() -> None:
    """Let the thread of the calls' event loop go before the one that asks for this (decision 22).

    Only Linux knows niceness of single threads; elsewhere, or where a sandbox forbids it, all stay alike.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            os.nice(NICENESS)
