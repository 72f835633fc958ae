"""Settings that protect the server: who may call, and how much one caller may take."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from machine.settings import ConfiguredSettings


class SecuritySettings(ConfiguredSettings):
    """The part of the server's settings that docs/security.md is about."""

    model_config = SettingsConfigDict(use_attribute_docstrings=True)

    tls_certificate: Path | None = None
    """PEM file of the server's certificate chain, for gRPC and metrics; read again when it changes. Without it,
    both are in the clear."""
    tls_key: Path | None = None
    """PEM file of the certificate's private key, without a password."""
    tls_client_ca: Path | None = None
    """PEM file of the authorities whose client certificates are taken; callers without one are then refused."""
    tokens: Path | None = None
    """File of hashed tokens, as python -m serving.token writes it; read again when it changes. Every call then
    needs a token, but for health checks."""
    max_call_pixels: int = Field(1_000_000_000, ge=1)
    """Most pixels of all image files of one call together, once decoded."""
    max_decode_seconds: float = Field(30.0, gt=0, allow_inf_nan=False)
    """Most processor time that the image files of one call may take to decode; looked at after each file."""
    max_metadata_bytes: int = Field(16 * 2**10, ge=2**10, le=2**20)
    """Most metadata of one call, in bytes, as HTTP/2 counts them."""
    max_connections: int = Field(4096, ge=1, le=2**31 - 1)
    """Most gRPC connections at a time; those beyond are closed at once."""
    max_connection_streams: int = Field(256, ge=1, le=2**31 - 1)
    """Most calls in progress on one connection; a client keeps those beyond to itself until others end."""
    max_connection_age_seconds: float = Field(3600.0, gt=0, le=1_000_000, allow_inf_nan=False)
    """How old a gRPC connection may become, give or take a tenth; its client then opens another."""
    connection_grace_seconds: float = Field(60.0, gt=0, le=1_000_000, allow_inf_nan=False)
    """How long calls on a connection that is too old may take to finish."""
    min_ping_seconds: float = Field(10.0, gt=0, le=1_000_000, allow_inf_nan=False)
    """How long clients must leave between pings; a connection that keeps pinging faster is closed."""
    handshake_seconds: float = Field(20.0, gt=0, le=1_000_000, allow_inf_nan=False)
    """How long a new connection may take until it speaks, TLS and HTTP/2 included."""
    message_seconds: float = Field(60.0, gt=0, le=86_400, allow_inf_nan=False)
    """How long a call's message may take to come; with max_call_bytes it says how slow a line may be."""

    @property
    def asks_who_calls(self) -> bool:
        """Whether callers must show a token or a certificate."""
        return self.tokens is not None or self.tls_client_ca is not None

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key come together or not at all")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError("tls_client_ca needs tls_certificate and tls_key")
        return self
