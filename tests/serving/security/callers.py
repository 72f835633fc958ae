"""Callers of every sort, and what they are answered."""

from __future__ import annotations

import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import trustme
from prometheus_client.parser import text_string_to_metric_families

from serving.channel import Credentials
from serving.server import Server


def write_pair(authority: trustme.CA, folder: Path, name: str = "127.0.0.1") -> tuple[Path, Path]:
    """A certificate and its key as PEM files."""
    issued = authority.issue_cert(name)
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    return certificate, key


def write_authority(authority: trustme.CA, path: Path) -> Path:
    """Its certificate as a PEM file."""
    authority.cert_pem.write_to_path(str(path))
    return path


def code_of(
    server: Server,
    method: str,
    credentials: Credentials | None = None,
    metadata: tuple[tuple[str, str], ...] = (),
    message: bytes = b"",
    stream: bool = False,
) -> grpc.StatusCode:
    """The code that a call of any method ends with."""
    credentials = credentials or Credentials()
    with credentials.open_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        sent = (*credentials.metadata, *metadata)
        ask: Any = channel.stream_stream(method) if stream else channel.unary_unary(method)
        try:
            if stream:
                next(ask(iter([message]), timeout=60, metadata=sent))
            else:
                ask(message, timeout=60, metadata=sent)
        except grpc.RpcError as error:
            return error.code()
    return grpc.StatusCode.OK


def read_metrics(
    server: Server, context: ssl.SSLContext | None = None, token: str | None = None
) -> tuple[int, str]:
    """Status and body of the metrics port."""
    scheme = "http" if context is None else "https"
    request = urllib.request.Request(  # noqa: S310 - http or https
        f"{scheme}://127.0.0.1:{server.metrics_port}/metrics"
    )
    if token is not None:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=60, context=context) as reply:  # noqa: S310 - as above
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def sample(body: str, name: str, **labels: str) -> float:
    """One sample of a scrape; 0 where there is none yet."""
    families: Any = text_string_to_metric_families(body)
    found = (
        one.value for family in families for one in family.samples if (one.name, one.labels) == (name, labels)
    )
    return float(next(found, 0.0))


def counter(read: Callable[[], tuple[int, str]], name: str, **labels: str) -> Callable[[], float]:
    """What a counter says whenever it is asked."""
    return lambda: sample(read()[1], name, **labels)
