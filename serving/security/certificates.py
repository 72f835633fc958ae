"""The server's certificate: read from PEM files, proved to be a pair, and taken anew when the files change."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc

from serving.errors import CredentialsRefused
from serving.security.reload import read_files


@dataclass(frozen=True)
class CertificateFiles:
    """PEM files: certificate chain, private key, and the authorities of clients, if these must show one."""

    certificate: Path
    key: Path
    client_ca: Path | None

    @property
    def paths(self) -> tuple[Path, ...]:
        """All of them."""
        return (self.certificate, self.key, *([self.client_ca] if self.client_ca else []))


@dataclass(frozen=True)
class Certificate:
    """A pair that fits, for gRPC and for HTTP."""

    for_grpc: grpc.ServerCertificateConfiguration
    for_http: ssl.SSLContext


def load_certificate(files: CertificateFiles, contents: tuple[bytes, ...]) -> Certificate:
    """Prove that certificate and key belong together, and that the authorities are certificates.

    Args:
        files: Where they are: the prover takes files alone.
        contents: What has been read from them, in the order of `files.paths`.

    Raises:
        CredentialsRefused: They do not, or they are changing right now.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pair = f"tls_certificate {files.certificate} and tls_key {files.key}"
    try:
        # A key with a password gets an empty one, and is refused, instead of asking at the terminal.
        context.load_cert_chain(files.certificate, files.key, password="")
    except (OSError, ValueError) as error:  # SSLError is an OSError
        raise CredentialsRefused(f"{pair} are no certificate with its private key: {_reason(error)}") from error
    if files.client_ca:
        try:
            context.load_verify_locations(files.client_ca)
        except OSError as error:
            raise CredentialsRefused(
                f"tls_client_ca {files.client_ca} has no certificate: {_reason(error)}"
            ) from error
        context.verify_mode = ssl.CERT_REQUIRED
    if read_files(files.paths) != contents:
        raise CredentialsRefused(f"{pair} changed while they were read")
    certificate, key, *authorities = contents
    configuration = grpc.ssl_server_certificate_configuration([(key, certificate)], next(iter(authorities), None))
    return Certificate(configuration, context)


def grpc_credentials(current: Callable[[], Certificate], ask_clients: bool) -> grpc.ServerCredentials:
    """Credentials that take the current certificate for each new connection.

    Args:
        current: The certificate as of now.
        ask_clients: Whether clients must show a certificate.
    """
    given = current()

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        """The certificate, if it is another one than last time."""
        nonlocal given
        newest = current()
        if newest is given:
            return None
        given = newest
        return newest.for_grpc

    return grpc.dynamic_ssl_server_credentials(given.for_grpc, fetch, ask_clients)  # type: ignore[arg-type]  # may be None


def _reason(error: Exception) -> str:
    """In OpenSSL's words, without the place in its source."""
    return getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
