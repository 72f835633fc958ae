"""What the server knows of who may call: its certificate and the tokens that it takes, kept up to date."""

from __future__ import annotations

from functools import partial
from typing import Any

import structlog
from prometheus_client import CollectorRegistry

from serving.context import Context
from serving.errors import PortTaken
from serving.metrics.callers import CallerMetrics
from serving.observation import CallWatch
from serving.security.certificates import Certificate, CertificateFiles, grpc_credentials, load_certificate
from serving.security.interceptor import TokenInterceptor
from serving.security.metrics_port import Gate, MetricsServer
from serving.security.reload import ReloadedFiles, Reloader
from serving.security.settings import SecuritySettings
from serving.security.tokens import Tokens, parse_tokens

log = structlog.get_logger()


class Credentials:
    """Certificate and tokens of one server. Without either in the settings, nothing here runs."""

    def __init__(self, settings: SecuritySettings, metrics: CallerMetrics, watch: CallWatch | None = None) -> None:
        """Read and prove what the settings name.

        Args:
            settings: Name the files.
            metrics: Where callers that are refused are counted.
            watch: Is shown the calls that are refused.

        Raises:
            CredentialsRefused: It cannot be used.
        """
        self._settings = settings
        self._metrics = metrics
        self._certificate = _watch_certificate(settings, metrics)
        self._tokens = _watch_tokens(settings, metrics)
        self._reloader = Reloader([one for one in (self._certificate, self._tokens) if one is not None])
        tokens = self._tokens
        self._interceptors = (
            [TokenInterceptor(lambda: tokens.current, metrics, watch or CallWatch(()))] if tokens else []
        )
        if self._tokens and not self._certificate:
            log.warning("tokens come in the clear: set tls_certificate, or let what is in front end TLS")

    @property
    def interceptors(self) -> list[TokenInterceptor]:
        """What stands before all other interceptors; none where no token is asked for."""
        return self._interceptors

    def lets_pass(self, method: str, context: Context) -> bool:
        """Whether a call will pass them."""
        return all(one.lets_pass(method, context.invocation_metadata()) for one in self._interceptors)

    def add_port(self, server: Any, address: str) -> int:
        """Open a port of a gRPC server, and give its number.

        Raises:
            RuntimeError: It cannot be listened on.
        """
        if not self._certificate:
            return int(server.add_insecure_port(address))
        asks = self._settings.tls_client_ca is not None
        return int(server.add_secure_port(address, grpc_credentials(self._current_certificate, asks)))

    def open_metrics(self, host: str, port: int, registry: CollectorRegistry) -> MetricsServer:
        """Open the metrics port under the same certificate and tokens.

        Raises:
            PortTaken: It cannot be listened on.
        """
        tokens, certificate = self._tokens, self._certificate
        gate = Gate(
            tls=(lambda: certificate.current.for_http) if certificate else None,
            tokens=(lambda: tokens.current) if tokens else None,
            refused=self._metrics.refused,
        )
        try:
            return MetricsServer.open(host, port, registry, gate)
        except OSError as error:
            raise PortTaken(f"metrics port {host}:{port} cannot be opened: {error.strerror}") from error

    def close(self) -> None:
        """Stop looking at the files."""
        self._reloader.close()

    def _current_certificate(self) -> Certificate:
        assert self._certificate is not None  # noqa: S101  asked for only where there is one
        return self._certificate.current


def _watch_certificate(settings: SecuritySettings, metrics: CallerMetrics) -> ReloadedFiles[Certificate] | None:
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    files = CertificateFiles(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)
    load = partial(load_certificate, files)
    return ReloadedFiles("certificate", files.paths, load, metrics.credential_reloads)


def _watch_tokens(settings: SecuritySettings, metrics: CallerMetrics) -> ReloadedFiles[Tokens] | None:
    path = settings.tokens
    if path is None:
        return None

    def load(contents: tuple[bytes, ...]) -> Tokens:
        """The tokens in the file."""
        return Tokens(parse_tokens(contents[0], path))

    return ReloadedFiles("tokens", [path], load, metrics.credential_reloads)
