"""The access log: a line for a sample of the calls, never with anything of an image."""

from __future__ import annotations

import random

import grpc
import structlog

from serving.observation import CallRecord
from serving.settings import ServerSettings

log = structlog.get_logger()


class AccessLog:
    """Writes calls into the log; those that failed are sampled by a share of their own."""

    def __init__(self, share: float, error_share: float) -> None:
        """Begin.

        Args:
            share: Of the calls that end with OK, 0..1.
            error_share: Of all others, 0..1.
        """
        self._share = share
        self._error_share = error_share

    def end(self, record: CallRecord) -> None:
        """Write a line, if the call is in the sample."""
        share = self._share if record.code is grpc.StatusCode.OK else self._error_share
        if random.random() < share:  # noqa: S311  nothing secret hangs on it
            log.info("call", **_fields(record))


def open_access_log(settings: ServerSettings) -> list[AccessLog]:
    """The access log that the settings ask for; none where both shares are 0."""
    share, error_share = settings.access_log_share, settings.access_log_error_share
    return [AccessLog(share, error_share)] if share or error_share else []


def _fields(record: CallRecord) -> dict[str, object]:
    fields = {
        "request_id": record.request_id,
        "method": record.method,
        "code": record.code.name,
        "error": record.error,
        "model": record.model,
        "version": record.version,
        "images": record.images,
        **{f"{stage}_ms": _milliseconds(seconds) for stage, seconds in record.stages.items()},
        "total_ms": _milliseconds(record.ended - record.began),
        "trace_id": record.trace_id,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1e3, 3)
