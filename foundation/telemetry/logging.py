"""Structured logs: one event a line, JSON unless a person is watching."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from typing import Any, BinaryIO

import orjson
import structlog

logger: Any = structlog.get_logger()
"""Log events, not prose: logger.info("timeline_trimmed", owner=…, dropped=…)."""


class LossyFile:
    """A file that events are lost from rather than work: a disk that is full must not end a consumer that says so."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, line: bytes) -> None:
        """Write or lose *line*."""
        with suppress(OSError):
            self._file.write(line)

    def flush(self) -> None:
        """Write or lose what waits."""
        with suppress(OSError):
            self._file.flush()


def set_up_logging(*, level: str = "INFO", as_json: bool | None = None) -> None:
    """Send events of at least *level* to standard error; JSON by default unless that is a terminal."""
    if as_json is None:
        as_json = not sys.stderr.isatty()
    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    factory: Any
    if as_json:
        processors += [
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(serializer=orjson.dumps),
        ]
        factory = structlog.BytesLoggerFactory(file=LossyFile(sys.stderr.buffer))  # type: ignore[arg-type]  # all it uses
    else:
        processors.append(structlog.dev.ConsoleRenderer())
        factory = structlog.PrintLoggerFactory(file=sys.stderr)
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=factory,
        cache_logger_on_first_use=True,
    )
