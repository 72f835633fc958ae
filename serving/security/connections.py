"""How much of the server one connection may take, in gRPC's own terms."""

from __future__ import annotations

from serving.security.settings import SecuritySettings

MAX_PING_STRIKES = 2
"""Pings too early that a connection survives."""


def connection_options(settings: SecuritySettings) -> list[tuple[str, int]]:
    """Options of a gRPC server."""
    return [
        ("grpc.max_metadata_size", settings.max_metadata_bytes),
        ("grpc.absolute_max_metadata_size", settings.max_metadata_bytes),  # else it refuses some before, by chance
        ("grpc.max_allowed_incoming_connections", settings.max_connections),
        ("grpc.max_concurrent_streams", settings.max_connection_streams),
        ("grpc.max_connection_age_ms", _ms(settings.max_connection_age_seconds)),
        ("grpc.max_connection_age_grace_ms", _ms(settings.connection_grace_seconds)),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", _ms(settings.min_ping_seconds)),
        ("grpc.http2.min_ping_interval_without_data_ms", _ms(settings.min_ping_seconds)),
        ("grpc.http2.max_ping_strikes", MAX_PING_STRIKES),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.server_handshake_timeout_ms", _ms(settings.handshake_seconds)),
    ]


def _ms(seconds: float) -> int:
    return max(round(seconds * 1e3), 1)
