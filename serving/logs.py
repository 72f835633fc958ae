"""Structured logs on standard error: JSON for machines, aligned text for a person at a terminal."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from functools import partial
from typing import Literal, TextIO, cast

import structlog

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
    structlog.configure(
        processors=[
            *([partial(_name_worker, worker)] if worker else []),
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, _StandardError())),
    )


def _name_worker(
    worker: int, _logger: object, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    return {**event, "worker": worker}


class _StandardError:
    """Standard error. Where its reader has gone or its disk is full, lines are lost; calls and the drain go on."""

    def __init__(self) -> None:
        self._line = ""

    def write(self, text: str) -> None:
        """Keep until the line is whole: other processes write there too."""
        self._line += text

    def flush(self) -> None:
        """Write the line, if that can be done."""
        line, self._line = self._line, ""
        with suppress(OSError):
            sys.stderr.write(line)
            sys.stderr.flush()
