"""What is to be done when a call ends, though it may have ended already."""

from __future__ import annotations

from collections.abc import Callable

import grpc


def at_end(context: grpc.ServicerContext, action: Callable[[], object]) -> None:
    """Do something once when a call ends; at once if it has ended, of which gRPC tells nobody any more."""
    if not context.add_callback(action):  # type: ignore[arg-type]  # nobody looks at what it returns
        action()
