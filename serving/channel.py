"""How a client reaches a server: in the clear or over TLS, as somebody or as nobody."""

from __future__ import annotations

import argparse
import math
import os
from dataclasses import dataclass, field
from pathlib import Path

import grpc

Option = tuple[str, int | str]
MAX_TIMEOUT_SECONDS = 604_800
"""A week. Much more is too much for gRPC's clock, which would call it over at once."""
MAX_RETRIED_BYTES = 64 * 2**20
"""Largest call that is kept until it is answered, so that it can be sent again; gRPC's own limit is 256 KiB."""
OPTIONS: list[Option] = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_reconnect_backoff_ms", 2000),  # gRPC's own two minutes would outlast a restart by far
    ("grpc.per_rpc_retry_buffer_size", MAX_RETRIED_BYTES),
]


@dataclass(frozen=True)
class Credentials:
    """What a client shows, and what it expects to be shown. The defaults show and expect nothing.

    Attributes:
        tls_ca: PEM file of the authorities of the server's certificate; None speaks in the clear.
        tls_certificate: PEM file of the client's own certificate chain, where the server asks for one.
        tls_key: PEM file of its private key.
        tls_server_name: Name that the server's certificate must be of, where that is not the target's host.
        token: Sent with every call as `authorization: Bearer`.
    """

    tls_ca: Path | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    tls_server_name: str | None = None
    token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Refuse what would be passed over in silence.

        Raises:
            ValueError: A certificate comes without its key, or something of TLS without `tls_ca`; or gRPC could
                not send the token, which is not printable ASCII.
        """
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key come together or not at all")
        if self.tls_ca is None and (self.tls_certificate or self.tls_server_name):
            raise ValueError("a certificate or a server name needs tls_ca, without which there is no TLS")
        if self.token is not None and not (self.token.isascii() and self.token.isprintable()):
            raise ValueError("the token has a line break, or another character that is not printable ASCII")

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with every call."""
        return () if self.token is None else (("authorization", f"Bearer {self.token}"),)

    def open_channel(self, target: str, *options: Option) -> grpc.Channel:
        """Prepare a connection, with further options of gRPC; nothing is sent before the first call.

        Raises:
            OSError: A file cannot be read.
        """
        if self.tls_ca is None:
            return grpc.insecure_channel(target, options=[*OPTIONS, *options])
        name = self.tls_server_name
        return grpc.secure_channel(
            target,
            grpc.ssl_channel_credentials(
                self.tls_ca.read_bytes(),
                self.tls_key.read_bytes() if self.tls_key else None,
                self.tls_certificate.read_bytes() if self.tls_certificate else None,
            ),
            options=[*OPTIONS, *options, *([("grpc.ssl_target_name_override", name)] if name else [])],
        )


def require_timeout(seconds: float) -> float:
    """A time that gRPC can keep.

    Raises:
        ValueError: It is longer than `MAX_TIMEOUT_SECONDS`, or no number.
    """
    if not -math.inf < seconds <= MAX_TIMEOUT_SECONDS:  # also catches NaN
        raise ValueError(f"timeout_seconds is {seconds:g}, expected at most {MAX_TIMEOUT_SECONDS}")
    return seconds


IN_THE_CLEAR = Credentials()
"""Nobody in particular, over no TLS."""

HELP = {
    "tls_ca": "PEM file of the authorities of the server's certificate; without it, calls go in the clear",
    "tls_certificate": "PEM file of a certificate to show, where the server asks for one",
    "tls_key": "PEM file of its private key",
    "tls_server_name": "name that the server's certificate must be of, where that is not the target's host",
    "token": "bearer token; better set as the variable, since other users see a command's flags",
}
"""Of the fields of `Credentials`, as options."""


def credential_options(*, with_token: bool = True) -> argparse.ArgumentParser:
    """The options of a command that calls a server, as a parent of its parser."""
    parser = argparse.ArgumentParser(add_help=False)
    for name, explanation in HELP.items():
        if name == "token" and not with_token:
            continue
        variable = f"CONSORT_CLIENT_{name.upper()}"
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            default=os.environ.get(variable) or None,
            type=Path if name in ("tls_ca", "tls_certificate", "tls_key") else str,
            help=f"{explanation}; also {variable}",
        )
    return parser


def credentials_of(options: argparse.Namespace) -> Credentials:
    """What `credential_options` read.

    Raises:
        ValueError: It does not fit together.
    """
    return Credentials(**{name: getattr(options, name, None) for name in HELP})
