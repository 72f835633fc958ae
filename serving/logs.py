"""Structured logs on standard error: JSON for machines, aligned text for a person at a terminal."""

from __future__ import annotations

import atexit
import logging
import os
import queue
import select
import sys
import threading
from functools import partial
from typing import Literal

import structlog

STDERR = 2
LEVELS = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)
MAX_LINES = 1000
"""So many may wait for whoever reads the log."""
CLOSE_SECONDS = 1.0
"""How long what waits at the end may take to write."""

# Without the values of local variables: callers' images are among them.
_TRACEBACKS = structlog.processors.ExceptionRenderer(
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
)


def configure_logs(log_format: Literal["auto", "json", "text"], level: str, worker: int | None = None) -> None:
    """Decide how every event from here on is written; where there are several workers, with whose it is."""
    as_text = log_format == "text" or (log_format == "auto" and sys.stderr.isatty())
    renderer: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
        if as_text
        else [_TRACEBACKS, structlog.processors.JSONRenderer()]
    )
    log = _Log()
    structlog.configure(
        processors=[
            *([partial(_name_worker, worker)] if worker else []),
            partial(_count_lost, log),
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=lambda *_: log,
    )
    logging.basicConfig(handlers=[_FromLibraries()], level=logging.WARNING, force=True)


def _name_worker(
    worker: int, _logger: object, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    return {**event, "worker": worker}


def _count_lost(
    log: _Log, _logger: object, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    return {**event, "lines_lost": log.lines_lost} if log.lines_lost else event


class _FromLibraries(logging.Handler):
    """What libraries have to say, such as that no collector of traces answers, as events of our own."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log it. gRPC has a traceback for every metadata that is not UTF-8, which callers may send at will."""
        if record.msg == "Invalid encoding on %s":
            return
        try:
            known = min((level for level in LEVELS if level >= record.levelno), default=logging.CRITICAL)
            structlog.get_logger().log(
                known, "library", name=record.name, message=record.getMessage(), exc_info=record.exc_info
            )
        except Exception:  # noqa: BLE001  as every handler: what a library logs must not fail what it does
            self.handleError(record)


class _Log:
    """Lines for standard error, written by a thread of its own: calls do not wait for a reader.

    Where there is none, or the disk is full, lines are lost. Nothing here holds a lock: what runs when garbage is
    collected may log as well, in the middle of a line.
    """

    def __init__(self) -> None:
        self.lines_lost = 0
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write_lines, name="log", daemon=True)
        self._thread.start()
        atexit.register(self._close)

    def msg(self, line: str) -> None:
        """Have a line written, if there is room for it."""
        if self._lines.qsize() < MAX_LINES:
            self._lines.put(line)
        else:
            self.lines_lost += 1

    debug = info = warning = error = critical = msg  # as structlog calls it, by level

    def _write_lines(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                _write_whole(f"{line}\n".encode(errors="backslashreplace"))
            except OSError:
                self.lines_lost += 1

    def _close(self) -> None:
        """Have what waits written, if somebody reads it."""
        self._lines.put(None)
        self._thread.join(CLOSE_SECONDS)


def _write_whole(left: bytes) -> None:
    """Write not by `sys.stderr`, whose lock a thread that is blocked would hold while Python ends."""
    while left:
        try:
            left = left[os.write(STDERR, left) :]
        except BlockingIOError:  # as whoever started this process may have set it
            select.select([], [STDERR], [])
