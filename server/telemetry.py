"""Structured logs: one line for each HTTP request and each change of state, with ids, without prompts or secrets."""

import contextlib
import logging
import re
import sys
from collections.abc import Iterator, MutableMapping
from typing import Any, TextIO, cast

import structlog

from server.encoding import dumps
from server.log_writer import LogWriter
from server.settings import LogFormat, Settings

_SECRETS = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{12,}|sk-[A-Za-z0-9_-]{8,}|sb_(?:secret|publishable)_[A-Za-z0-9_-]+"
    r"|eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*)"
    r"|(?i:bearer\s+)[^\s\"',]+"
    r"|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"
)


def redact(text: str) -> str:
    """Replace everything that looks like a credential: tokens, keys, passwords in URLs."""
    return _SECRETS.sub("[redacted]", text)


def _redact_event(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = redact(value)
    return event


@contextlib.contextmanager
def logging_to_stdout(settings: Settings) -> Iterator[LogWriter]:
    """Send all logs, those of libraries included, to stdout in one format. The command line calls it once.

    No log call waits for stdout. The end of the block writes the remaining lines, within `CLOSE_TIMEOUT_S`.
    """
    log_format = settings.log_format or (LogFormat.CONSOLE if sys.stdout.isatty() else LogFormat.JSON)
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _redact_event,
    ]
    renderer: Any
    if log_format is LogFormat.JSON:
        renderer = structlog.processors.JSONRenderer(serializer=lambda event, **_: dumps(event).decode())
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stdout.isatty())

    def describe_drop(count: int) -> str:
        event: Any = {"event": "log_lines_dropped", "count": count}
        for processor in (*shared, renderer):
            event = processor(None, "warning", event)
        return f"{event}\n"

    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    with contextlib.closing(LogWriter(sys.stdout.fileno(), describe_drop=describe_drop)) as output:
        _configure(output, [*shared, renderer], level)
        yield output


def _configure(output: LogWriter, processors: list[Any], level: int) -> None:
    *shared, renderer = processors
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", output)),  # it calls only write and flush
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(output)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(level, logging.WARNING), force=True)
