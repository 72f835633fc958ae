"""Peers that break the rules below gRPC: raw sockets, and HTTP/2 frames by the library h2 while it plays along."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from random import Random
from types import TracebackType
from typing import Any, Self, cast

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, Event, ResponseReceived, StreamEnded, StreamReset, TrailersReceived
from h2.exceptions import ProtocolError

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
TIMEOUT_SECONDS = 60.0
Headers = tuple[tuple[str, str | bytes], ...]


class Peer:
    """One connection in plain HTTP/2, without gRPC's manners."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=TIMEOUT_SECONDS)
        self.http = H2Connection(H2Configuration(header_encoding="utf-8"))
        self.http.initiate_connection()
        self.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def begin(self, method: str | bytes, more: Headers = (), many: int = 1) -> int:
        """Send the heads of so many calls in one piece; gives the stream of the last."""
        head = ((":method", "POST"), (":scheme", "http"), (":path", method), (":authority", "server"))
        for _ in range(many):
            stream = self.http.get_next_available_stream_id()
            self.http.send_headers(
                stream, (*head, ("te", "trailers"), ("content-type", "application/grpc"), *more)
            )
        self.flush()
        return stream

    def send(self, stream: int, message: bytes, *, compressed: bool = False, end: bool = True) -> None:
        """Send a message, as far as it fits into what the server lets come at once."""
        framed = struct.pack(">BI", compressed, len(message)) + message
        room = min(self.http.local_flow_control_window(stream), self.http.max_outbound_frame_size)
        self.http.send_data(stream, framed[:room], end_stream=end and len(framed) <= room)
        self.flush()

    def flush(self) -> None:
        """Send what waits."""
        self.socket.sendall(self.http.data_to_send())

    def receive(self) -> list[Event]:
        """What comes next; an end of the connection is an event too."""
        try:
            received = self.socket.recv(65536)
        except ConnectionError:
            received = b""
        if not received:
            return [ConnectionTerminated()]
        try:
            events = self.http.receive_data(received)
        except ProtocolError:  # what comes after a GOAWAY is an error to h2
            return [ConnectionTerminated()]
        with suppress(OSError):
            self.flush()
        return events

    def code(self) -> int | None:
        """The gRPC status of the call in progress; None if the stream or the connection ends without one."""
        while True:
            for event in self.receive():
                if isinstance(event, TrailersReceived | ResponseReceived):
                    headers: dict[Any, Any] = dict(event.headers or ())
                    if "grpc-status" in headers:
                        return int(headers["grpc-status"])
                if isinstance(event, StreamEnded | StreamReset | ConnectionTerminated):
                    return None

    def wait_for_the_end(self) -> int | None:
        """Wait until the server wants no more of this connection; gives HTTP/2's reason, if it says one."""
        while True:
            for event in self.receive():
                if isinstance(event, ConnectionTerminated):
                    return None if event.error_code is None else int(event.error_code)


def garbage(target: str, random: Random) -> None:
    """Bytes that are no HTTP/2, from the start or after a good beginning."""
    host, _, port = target.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=TIMEOUT_SECONDS) as peer, suppress(OSError):
        peer.sendall(PREFACE[: random.choice((0, 5, len(PREFACE)))] + random.randbytes(random.randint(1, 500)))


def bad_frames(target: str, random: Random) -> None:
    """Frames of any kind, length and stream, after a handshake that was in order."""
    with Peer(target) as peer, suppress(OSError):
        for _ in range(random.randint(1, 5)):
            content = random.randbytes(random.randrange(40))
            length = random.choice((len(content), len(content), 0xFFFFFF))
            head = struct.pack(">I", length)[1:] + bytes((random.randrange(12), random.randrange(256)))
            peer.socket.sendall(head + struct.pack(">I", random.choice((0, 1, 2, 3, 2**31 - 1))) + content)


def disconnect(target: str, random: Random, method: str, message: bytes) -> None:
    """Leave in the middle of a message, by closing or by a reset of the connection."""
    with Peer(target) as peer:
        stream = peer.begin(method)
        peer.http.send_data(
            stream, struct.pack(">BI", 0, len(message) + random.choice((1, 10**6))) + message[:8000]
        )
        peer.flush()
        if random.random() < 0.5:
            peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def cancel(target: str, random: Random, method: str, message: bytes) -> None:
    """Begin calls and reset their streams at once, many times."""
    with Peer(target) as peer, suppress(OSError):
        for _ in range(random.randint(1, 20)):
            stream = peer.begin(method)
            if random.random() < 0.5:
                peer.send(stream, message[:8000])
            peer.http.reset_stream(stream, 8)
            peer.flush()


def never_read(target: str, random: Random, method: str, message: bytes) -> None:
    """Ask, open no window for the answer, and leave."""
    with Peer(target) as peer, suppress(OSError):
        for _ in range(random.randint(1, 10)):
            peer.send(peer.begin(method), message[:8000])


def too_late(target: str, random: Random, method: str, message: bytes) -> int | None:
    """A call whose deadline has all but passed; gives its code."""
    with Peer(target) as peer:
        peer.send(peer.begin(method, (("grpc-timeout", random.choice(("0n", "1n", "1u"))),)), message[:8000])
        return peer.code()


def bad_compression(target: str, random: Random, method: str, message: bytes) -> int | None:
    """A message that says it is compressed, and is not, or by a way that is not known; gives its code."""
    encoding = random.choice(("gzip", "deflate", "br", "identity"))
    with Peer(target) as peer:
        peer.send(peer.begin(method, (("grpc-encoding", encoding),)), message[:8000], compressed=True)
        return peer.code()


def two_messages_or_none(target: str, random: Random, method: str, message: bytes) -> int | None:
    """A call that should bring one message, with none or two; gives its code."""
    with Peer(target) as peer:
        stream = peer.begin(method)
        if random.random() < 0.5:
            peer.http.end_stream(stream)
            peer.flush()
        else:
            peer.send(stream, message[:4000], end=False)
            peer.send(stream, message[:4000])
        return peer.code()


def odd_head(target: str, random: Random, method: str, message: bytes) -> int | None:
    """A call whose path or metadata are any bytes at all; gives its code."""
    path: str | bytes = method
    if random.random() < 0.5:
        path = random.choice((b"/", method.encode(), b"/a/b/")) + random.randbytes(random.randint(1, 20))
    name = random.choice(("x-request-id", "authorization", "traceparent", "other"))
    with Peer(target) as peer:
        peer.send(peer.begin(path, ((name, random.randbytes(random.randrange(20))),)), message[:8000])
        return peer.code()


NAMELESS: tuple[Callable[[str, Random], None], ...] = (garbage, bad_frames)
"""Peers that ask nothing."""
LEAVING: tuple[Callable[[str, Random, str, bytes], None], ...] = (disconnect, cancel, never_read)
"""Peers that wait for no answer."""
WAITING: tuple[Callable[[str, Random, str, bytes], int | None], ...] = (
    *(too_late, bad_compression, two_messages_or_none, odd_head),
)
"""Peers that want to know what they are answered."""


def any_peer(target: str, random: Random, method: str, message: bytes) -> tuple[str, int | None]:
    """Send one of them; gives its name, and the code that it was answered with, if it was."""
    peer = random.choice((*NAMELESS, *LEAVING, *WAITING))
    if peer in NAMELESS:
        peer(target, random)
        return peer.__name__, None
    asking = cast(Callable[[str, Random, str, bytes], int | None], peer)
    return peer.__name__, asking(target, random, method, message)
