"""Structured logs on standard error: JSON for machines, aligned text for a person at a terminal."""

from __future__ import annotations

import atexit
import logging
import os
import queue
import sys
import threading
from contextlib import suppress
from functools import partial
from typing import Literal, TextIO, cast

import structlog

STDERR = 2
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
    stream = _StandardError()
    structlog.configure(
        processors=[
            *([partial(_name_worker, worker)] if worker else []),
            partial(_count_lost, stream),
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, stream)),
    )
    logging.basicConfig(handlers=[_FromLibraries()], level=logging.WARNING, force=True)


def _name_worker(
    worker: int, _logger: object, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    return {**event, "worker": worker}


def _count_lost(
    stream: _StandardError, _logger: object, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    return {**event, "lines_lost": stream.lines_lost} if stream.lines_lost else event


class _FromLibraries(logging.Handler):
    """What libraries have to say, such as that no collector of traces answers, as events of our own."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log it. gRPC has a traceback for every metadata that is not UTF-8, which callers may send at will."""
        if record.msg != "Invalid encoding on %s":
            structlog.get_logger().log(
                record.levelno, "library", name=record.name, message=record.getMessage(), exc_info=record.exc_info
            )


class _StandardError:
    """Standard error, written by a thread of its own: calls do not wait for a reader.

    Where there is none, or the disk is full, lines are lost.
    """

    def __init__(self) -> None:
        self.lines_lost = 0
        self._line = ""
        self._lines: queue.Queue[str | None] = queue.Queue(MAX_LINES)
        self._thread = threading.Thread(target=self._write_lines, name="log", daemon=True)
        self._thread.start()
        atexit.register(self._close)

    def write(self, text: str) -> None:
        """Keep until the line is whole: other processes write there too."""
        self._line += text

    def flush(self) -> None:
        """Have the line written, if there is room for it."""
        line, self._line = self._line, ""
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self.lines_lost += 1

    def _write_lines(self) -> None:
        while (line := self._lines.get()) is not None:
            left = line.encode(errors="backslashreplace")
            with suppress(OSError):
                while left:  # not by sys.stderr, whose lock a blocked thread holds while Python ends
                    left = left[os.write(STDERR, left) :]

    def _close(self) -> None:
        """Have what waits written, if somebody reads it."""
        with suppress(queue.Full):
            self._lines.put(None, timeout=CLOSE_SECONDS)
            self._thread.join(CLOSE_SECONDS)
