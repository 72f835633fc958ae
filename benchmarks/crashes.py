"""Clients that crash: processes killed in the middle of calls, connections reset in the middle of messages."""

from __future__ import annotations

import random
import signal
import socket
import struct
import subprocess
import sys
import time
from collections import Counter

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = bytes(3) + b"\x04" + bytes(5)
"""An empty HTTP/2 frame of settings (RFC 9113, 6.5)."""
RESET_AT_ONCE = struct.pack("ii", 1, 0)
"""SO_LINGER: closing sends a reset instead of a farewell."""

ENDLESS_CALLS = """
import sys, grpc
from benchmarks.load import METHOD, classify_request, pixels_of
request = classify_request(pixels_of(64, (1, 28, 28)), "mnist")
with grpc.insecure_channel(sys.argv[1]) as channel:
    classify = channel.unary_unary(METHOD)
    calls = [classify.future(request) for _ in range(4)]
    print("calling", flush=True)
    for call in calls:
        call.result()
"""
"""A client that has four large calls in progress when it is killed."""


def crash_repeatedly(target: str, seconds: float, pause_seconds: float, seed: int) -> Counter[str]:
    """Crash one client after the other; gives how many of each sort did.

    Args:
        target: Host and port.
        seconds: For how long.
        pause_seconds: Between two killed processes; five connections are reset in each pause.
        seed: Of what garbage is sent.
    """
    crashes: Counter[str] = Counter()
    chance = random.Random(seed)  # noqa: S311  nothing secret hangs on it
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        kill_a_client(target)
        crashes["clients killed in the middle of calls"] += 1
        for sort, message in _messages(chance).items():
            reset_a_connection(target, message)
            crashes[sort] += 1
            time.sleep(min(pause_seconds / 5, max(0.0, until - time.monotonic())))
    return crashes


def kill_a_client(target: str) -> None:
    """Start a client, wait until it calls, and kill it with -9."""
    command = [sys.executable, "-c", ENDLESS_CALLS, target]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as client:  # noqa: S603  our own command
        assert client.stdout is not None  # noqa: S101  a pipe was asked for
        client.stdout.readline()
        client.send_signal(signal.SIGKILL)


def reset_a_connection(target: str, message: bytes) -> None:
    """Send bytes and reset the connection, without waiting for anything."""
    host, _, port = target.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_ONCE)
        connection.sendall(message)


def _messages(chance: random.Random) -> dict[str, bytes]:
    half_a_frame = struct.pack(">I", 1000)[1:] + b"\x00\x01" + struct.pack(">I", 1) + bytes(10)
    return {
        "connections that say nothing": b"",
        "connections of half a preface": PREFACE[:10],
        "connections without a call": PREFACE + SETTINGS,
        "connections of half a frame": PREFACE + SETTINGS + half_a_frame,
        "connections of garbage frames": PREFACE + SETTINGS + chance.randbytes(200),
    }
