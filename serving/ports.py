"""The port that calls come in at: how it is named, and how several processes share it.

Every worker listens on the port itself (SO_REUSEPORT), and Linux spreads new connections over those that listen. A
port that may be shared could be shared by a second server as well, by mistake; so it is proved free first.
"""

from __future__ import annotations

import socket

from serving.errors import PortTaken


def address_of(host: str, port: int) -> str:
    """As gRPC writes it."""
    return f"{f'[{host}]' if ':' in host else host}:{port}"


def port_taken(host: str, port: int) -> PortTaken:
    """What to raise when calls cannot be listened for."""
    return PortTaken(
        f"gRPC address {address_of(host, port)} cannot be listened on; is another server running, or the host not "
        "of this machine?"
    )


def hold_port(host: str, port: int) -> socket.socket:
    """Prove that nobody listens on a port, and let workers share it; port 0 takes a free one.

    Returns:
        A socket that is bound to the port and never listens: as long as it is open, the port stays taken.

    Raises:
        PortTaken: Somebody listens there, or the host is not of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        held = socket.socket(family, kind, protocol)
    except OSError as error:
        raise port_taken(host, port) from error
    try:
        # After a restart, connections may still be closing on the port: they do not count, but listeners do.
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(address)
        # Only now: with the one a shared port counts as free, and without the other nobody else may have it.
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    except OSError as error:
        held.close()
        raise port_taken(host, port) from error
    return held
