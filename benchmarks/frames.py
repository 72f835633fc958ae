"""Calls of gRPC in as few steps as Python can: HTTP/2 frames (RFC 9113) that are the same bytes each time.

A gRPC client in Python takes as much of a core as the server that it measures; this one takes a tenth of that. It
indexes no header (RFC 7541) and tells the server to index none, so that equal replies are equal bytes, and each
kind is read once.
"""

from __future__ import annotations

import itertools
import socket
import struct
from typing import Final

import grpc
from hpack import Decoder

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
ACK = END_STREAM = 0x1
END_HEADERS = 0x4
HEADER_TABLE_SIZE, INITIAL_WINDOW_SIZE = 1, 4
MAX_WINDOW = 2**31 - 1
DEFAULT_WINDOW = 2**16 - 1
"""Bytes that a connection, and each call of it, may send before the server allows more."""
MAX_FRAME = 2**14
FRAME_HEAD = 9
RECEIVE_BYTES = 2**18
RESET_CODES = {7: "UNAVAILABLE", 8: "CANCELLED", 11: "RESOURCE_EXHAUSTED"}
"""gRPC's statuses for the errors that end a call without one."""

CODES: Final = {str(code.value[0]).encode(): code.name for code in grpc.StatusCode}
Ended = tuple[int, str]
"""A call by the number of its stream, and its status by gRPC's name."""


class Connection:
    """One connection, over which the same request is sent again and again."""

    def __init__(self, target: str, method: str, request: bytes, timeout_seconds: float) -> None:
        """Connect.

        Args:
            target: Host and port.
            method: In full, as `/consort.v1.Classifier/Classify`.
            request: The serialized message, at most 64 kB.
            timeout_seconds: Deadline of each call.
        """
        if len(request) + 5 > DEFAULT_WINDOW:
            raise ValueError(f"the request is {len(request)} bytes, expected less than {DEFAULT_WINDOW}")
        host, _, port = target.rpartition(":")
        self.socket = socket.create_connection((host, int(port)))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.waiting: set[int] = set()
        """Calls that have been made or wait for their turn, by the number of their stream."""
        self._streams = itertools.count(1, 2)
        self._headers = _headers(target, method, timeout_seconds)
        message = struct.pack(">BI", 0, len(request)) + request
        self._chunks = [message[start : start + MAX_FRAME] for start in range(0, len(message), MAX_FRAME)]
        self._message_bytes = len(message)
        self._room = DEFAULT_WINDOW
        self._held_back: list[int] = []
        self._received = b""
        self._codes: dict[bytes, str] = {}
        settings = struct.pack(">HIHI", HEADER_TABLE_SIZE, 0, INITIAL_WINDOW_SIZE, MAX_WINDOW)
        window = struct.pack(">I", MAX_WINDOW - DEFAULT_WINDOW)
        self.socket.sendall(PREFACE + _frame(SETTINGS, 0, 0, settings) + _frame(WINDOW_UPDATE, 0, 0, window))

    def fileno(self) -> int:
        """For `select`."""
        return self.socket.fileno()

    def close(self) -> None:
        """Close it, whatever is in progress."""
        self.socket.close()

    def call(self) -> int:
        """Begin a call, at once or when the server takes more bytes; gives the number of its stream."""
        stream = next(self._streams)
        self.waiting.add(stream)
        self._held_back.append(stream)
        self._send_what_fits()
        return stream

    def receive(self) -> list[Ended]:
        """Read what came; gives the calls that have ended.

        Raises:
            ConnectionError: The server closed the connection.
        """
        came = self.socket.recv(RECEIVE_BYTES)
        if not came:
            raise ConnectionError("the server closed the connection")
        self._received += came
        ended, at = [], 0
        while len(self._received) - at >= FRAME_HEAD:
            length = int.from_bytes(self._received[at : at + 3])
            kind, flags = self._received[at + 3], self._received[at + 4]
            stream = int.from_bytes(self._received[at + 5 : at + FRAME_HEAD])
            end = at + FRAME_HEAD + length
            if end > len(self._received):
                break
            code = self._read(kind, flags, stream, self._received[at + FRAME_HEAD : end])
            if code is not None and stream in self.waiting:
                self.waiting.discard(stream)
                ended.append((stream, code))
            at = end
        self._received = self._received[at:]
        return ended

    def _send_what_fits(self) -> None:
        while self._held_back and self._room >= self._message_bytes:
            stream = self._held_back.pop(0)
            self._room -= self._message_bytes
            *first, last = self._chunks
            frames = [_frame(HEADERS, END_HEADERS, stream, self._headers)]
            frames += [_frame(DATA, 0, stream, chunk) for chunk in first]
            self.socket.sendall(b"".join([*frames, _frame(DATA, END_STREAM, stream, last)]))

    def _read(self, kind: int, flags: int, stream: int, content: bytes) -> str | None:
        """Take note of a frame; the status of the call that it ends, if it does."""
        if kind == HEADERS and flags & END_STREAM:
            return self._code(content)
        if kind == RST_STREAM:
            return RESET_CODES.get(int.from_bytes(content), "UNKNOWN")
        if kind == WINDOW_UPDATE and stream == 0:
            self._room += int.from_bytes(content)
            self._send_what_fits()
        elif kind in (SETTINGS, PING) and not flags & ACK:
            self.socket.sendall(_frame(kind, ACK, 0, content if kind == PING else b""))
        elif kind == GOAWAY:
            raise ConnectionError("the server says goodbye")
        return None

    def _code(self, headers: bytes) -> str:
        if headers not in self._codes:
            self._codes[headers] = CODES[dict(Decoder().decode(headers, raw=True))[b"grpc-status"]]
        return self._codes[headers]


def _frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
    return struct.pack(">I", len(content) << 8 | kind) + struct.pack(">BI", flags, stream) + content


def _headers(target: str, method: str, timeout_seconds: float) -> bytes:
    headers = {
        ":method": "POST",
        ":scheme": "http",
        ":path": method,
        ":authority": target,
        "te": "trailers",
        "content-type": "application/grpc",
        "grpc-timeout": f"{round(timeout_seconds * 1e3)}m",
    }
    literals = [(name.encode(), value.encode()) for name, value in headers.items()]
    return b"".join(b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value for name, value in literals)
