"""One of several processes that serve the same models on the same port: `serving.supervisor` starts it.

When the pipe to its supervisor ends, so does the worker: nobody would replace it any more.
"""

from __future__ import annotations

import gc
import signal
import sys
import threading
from multiprocessing.connection import Connection

from serving.errors import StartupError
from serving.line import GONE, hear, say, say_error, say_snapshot
from serving.logs import configure_logs
from serving.merging import take_snapshot
from serving.server import Server
from serving.settings import ServerSettings

EXIT_FAILED = 1
EXIT_NOT_STARTED = 3


def main(descriptor: int) -> int:
    """Serve until told to stop; gives the process's exit code."""
    line = Connection(descriptor)
    try:
        server = _start(line)
    except StartupError as error:
        say_error(line, error)  # the supervisor prints it, once for all workers
        return EXIT_NOT_STARTED
    except GONE:
        return EXIT_NOT_STARTED
    threading.Thread(target=_tell, args=(server, line), name="tell", daemon=True).start()
    is_well = server.serve()
    server.drain()
    server.stop()
    return 0 if is_well else EXIT_FAILED


def _start(line: Connection) -> Server:
    number, fields = hear(line)
    settings = ServerSettings(**fields)
    configure_logs(settings.log_format, settings.log_level, number)
    server = Server(settings, is_worker=True)
    server.load()
    say(line, server.default_model)
    port: int = hear(line)
    signal.signal(signal.SIGTERM, lambda *_: server.request_stop())  # before, it ends the process at once
    server.open(port)
    gc.collect()  # as serving.__main__ does, and for the same reason
    gc.freeze()
    say(line, port)
    return server


def _tell(server: Server, line: Connection) -> None:
    try:
        while True:
            hear(line)
            server.wait_for_loop()  # what hangs must not seem well
            say_snapshot(line, take_snapshot(server.registry.collect()))
    except GONE:
        pass
    finally:  # what cannot tell what it has counted is replaced
        server.request_stop()


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
