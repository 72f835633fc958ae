"""Start the explorer: `python -m explorer`."""

from __future__ import annotations

import signal
import socket
import sys

import uvicorn

from explorer.app import build_app
from explorer.errors import PortTaken, StartupError
from explorer.settings import ExplorerSettings, read_settings

EXIT_STARTUP_FAILED = 3
BACKLOG = 128


def main(arguments: list[str]) -> int:
    """Serve the page until SIGTERM or SIGINT; gives the process's exit code."""
    try:
        settings = read_settings(arguments)
        listening = listen(settings)
    except StartupError as error:
        message = " ".join(str(error).split())  # one line, whatever it quotes
        print(f"{type(error).__name__}: {message}", file=sys.stderr)
        return EXIT_STARTUP_FAILED
    host, port = listening.getsockname()[:2]
    configuration = uvicorn.Config(
        build_app(settings),
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,  # a client is whoever connects, not whom it says it asks for
        timeout_graceful_shutdown=5,
    )
    server = uvicorn.Server(configuration)

    def stop(*_: object) -> None:
        """End also when the signal comes before uvicorn listens for it, or once more from uvicorn at its end."""
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    print(f"Explorer on http://{host}:{port}, asking the server at {settings.target}", flush=True)
    server.run(sockets=[listening])
    return 0


def listen(settings: ExplorerSettings) -> socket.socket:
    """The port of the page, opened.

    Raises:
        PortTaken: It cannot be.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise PortTaken(f"{settings.host}:{settings.port} cannot be listened on: {error.strerror}") from error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
