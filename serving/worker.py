"""One of several processes that serve the same models on the same port: `serving.workers` starts it.

It talks with its supervisor through a pipe. It gets its number and its settings; when its models are loaded, it
says what a call means that names none, and gets the port; when that is open, it says so. From then on it tells
what it has counted, each time that it is asked. If it cannot start, it says the error instead. When the pipe ends,
so does the worker: nobody would replace it any more.
"""

from __future__ import annotations

import signal
import sys
import threading
from multiprocessing.connection import Connection

from serving.errors import StartupError
from serving.logs import configure_logs
from serving.merging import take_snapshot
from serving.server import Server

EXIT_NOT_STARTED = 3


def main(descriptor: int) -> int:
    """Serve until told to stop; gives the process's exit code."""
    line = Connection(descriptor)
    try:
        number, settings = line.recv()
        configure_logs(settings.log_format, settings.log_level, number)
        server = Server(settings, is_worker=True)
        _start(server, line)
    except StartupError as error:
        line.send(error)  # the supervisor prints it, once for all workers
        return EXIT_NOT_STARTED
    except (EOFError, ConnectionError):  # no supervisor, no calls
        return EXIT_NOT_STARTED
    threading.Thread(target=_tell, args=(server, line), name="tell", daemon=True).start()
    server.serve()
    server.drain()
    server.stop()
    return 0


def _start(server: Server, line: Connection) -> None:
    server.load()
    line.send(server.default_model)
    port: int = line.recv()
    signal.signal(signal.SIGTERM, lambda *_: server.request_stop())  # before, it ends the process at once
    server.open(port)
    line.send(port)


def _tell(server: Server, line: Connection) -> None:
    try:
        while True:
            line.recv()
            line.send(take_snapshot(server.registry.collect()))
    except (EOFError, ConnectionError):
        server.request_stop()


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
