"""The port that Prometheus reads: plain HTTP, or under the server's certificate and tokens."""

from __future__ import annotations

import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from prometheus_client import CollectorRegistry, Counter, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from serving.errors import Forbidden, Unauthenticated
from serving.security.scopes import Scope
from serving.security.tokens import Tokens

TIMEOUT_SECONDS = 10.0
"""How long a caller may say nothing."""
ACCEPT_AGAIN_SECONDS = 0.1
"""After how long to try again to take a connection that could not be taken."""
STATUSES = {Unauthenticated: "401 Unauthorized", Forbidden: "403 Forbidden"}


@dataclass(frozen=True)
class Gate:
    """What callers of the port must show.

    Attributes:
        tls: The certificate's context as of now; None speaks plain HTTP.
        tokens: The tokens that are taken as of now; None asks for none.
        refused: Counts those who are refused, by port and reason.
    """

    tls: Callable[[], ssl.SSLContext] | None
    tokens: Callable[[], Tokens] | None
    refused: Counter

    def guard(self, application: WSGIApplication) -> WSGIApplication:
        """`application`, for those with a token alone."""
        tokens = self.tokens
        if tokens is None:
            return application

        def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            """Look at the token, then answer."""
            try:
                tokens().require(environ.get("HTTP_AUTHORIZATION"), Scope.METRICS)
            except (Unauthenticated, Forbidden) as error:
                status = STATUSES[type(error)]
                self.refused.labels("metrics", status.partition(" ")[0]).inc()
                start_response(status, [("WWW-Authenticate", "Bearer"), ("Content-Type", "text/plain")])
                return [f"{error}\n".encode()]
            return application(environ, start_response)

        return answer


class MetricsServer(ThreadingWSGIServer):
    """Answers each caller on a thread of its own; handshakes too, so that a silent caller holds up no other."""

    gate: Gate

    @classmethod
    def open(cls, host: str, port: int, registry: CollectorRegistry, gate: Gate) -> MetricsServer:
        """Listen, and answer until `close` is called.

        Raises:
            OSError: The address cannot be listened on.
        """
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        kind = type(cls.__name__, (cls,), {"address_family": family, "gate": gate})
        server: MetricsServer = kind((host, port), _Handler)
        server.set_app(gate.guard(make_wsgi_app(registry)))
        threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
        return server

    def close(self) -> None:
        """Answer no more, and release the port."""
        self.shutdown()
        self.server_close()

    def get_request(self) -> tuple[Any, Any]:
        """Take a connection; its handshake comes with the first byte that is read."""
        try:
            connection, address = super().get_request()
        except OSError:  # no descriptor is left, say: whoever waits still does, and would be looked at at once
            time.sleep(ACCEPT_AGAIN_SECONDS)
            raise
        if self.gate.tls is not None:
            connection = self.gate.tls().wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """What a caller does to its connection is no news; anything else is shown."""
        if not isinstance(sys.exception(), OSError):  # SSLError and TimeoutError among them
            super().handle_error(request, client_address)


class _Handler(WSGIRequestHandler):
    timeout = TIMEOUT_SECONDS

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as the base class calls it
        """Say nothing of every scrape."""
