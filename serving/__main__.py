"""Start the server: `python -m serving`."""

from __future__ import annotations

import gc
import os
import resource
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog

from serving.errors import StartupError
from serving.logs import configure_logs
from serving.settings import ServerSettings, read_settings, unknown_variables
from serving.supervisor import Supervisor, count_workers

if TYPE_CHECKING:
    from serving.server import Server

EXIT_FAILED = 1
EXIT_STARTUP_FAILED = 3


def main(arguments: list[str]) -> int:
    """Run the server until SIGTERM or SIGINT; gives the process's exit code."""
    try:
        settings = read_settings(arguments)
        configure_logs(settings.log_format, settings.log_level)
        log = structlog.get_logger()
        log.info("starting", **settings.model_dump(mode="json"))
        if unknown := unknown_variables(os.environ):
            log.warning("environment variables that set nothing", names=unknown)
        if (most := allow_descriptors()) < settings.max_connections:
            log.warning(
                "fewer files may be open than connections", files=most, max_connections=settings.max_connections
            )
        server = make_server(settings)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: server.request_stop())
        server.start()
        # What is there now stays: no collection from here on looks at it, and holds up calls meanwhile.
        gc.collect()
        gc.freeze()
    except StartupError as error:
        message = " ".join(str(error).split())  # one line, whatever it quotes
        with suppress(OSError):  # a log on a full disk
            print(f"{type(error).__name__}: {message}", file=sys.stderr)
        return EXIT_STARTUP_FAILED
    is_well = server.serve()
    server.drain()
    server.stop()
    return 0 if is_well else EXIT_FAILED


def make_server(settings: ServerSettings) -> Server | Supervisor:
    """The server itself, or what starts several and watches over them."""
    workers = count_workers(settings)
    if workers > 1:
        return Supervisor(settings, workers)
    from serving.server import Server  # noqa: PLC0415  with onnxruntime, which a supervisor does without

    return Server(settings)


def allow_descriptors() -> int:
    """Let this process, and those that it starts, have as many files and connections open as they may.

    Returns:
        How many. Many systems begin with 1,024, for programs of long ago.
    """
    _, allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS allows less than it says
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, allowed))
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if most == resource.RLIM_INFINITY else most


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
