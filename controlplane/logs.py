"""How the log looks: structlog, console for people and JSON for machines."""

from __future__ import annotations

import logging
import sys
from typing import Literal

import structlog
from aiohttp.http_exceptions import HttpProcessingError

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["console", "json"]


class _Bridge(logging.Handler):
    """Passes on what libraries log, in the same one-line form.

    A web server's message quotes the request that it could not read, which may hold a token;
    of those only the kind of mistake is told.
    """

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        log = structlog.get_logger(record.name)
        if record.name.startswith("aiohttp") and isinstance(error, HttpProcessingError | None):
            log.debug("http.unreadable_request", error=type(error).__name__)
        elif record.levelno >= logging.WARNING:
            log.warning("library.message", message=record.getMessage(), exc_info=error)


def configure(level: LogLevel, form: LogFormat) -> None:
    """Send events of `level` and above to stderr, one line each."""
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=24)
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.handlers = [_Bridge()]
    root.setLevel(logging.WARNING)
