"""Structured logs: one line for each HTTP request and each change of state, with ids, without prompts or secrets."""

import contextlib
import logging
import re
from collections.abc import Iterator, MutableMapping
from datetime import UTC, datetime
from typing import Any, TextIO, cast

import orjson
import structlog

from server.settings import LogFormat, Settings
from server.telemetry.log_writer import LogWriter

_SECRETS = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{12,}|ask_[A-Za-z0-9]{12,}|sk-[A-Za-z0-9_-]{8,}|sb_(?:secret|publishable)_[A-Za-z0-9_-]+"
    r"|eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*)"
    r"|(?i:bearer\s+)[^\s\"',]+"
    r"|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"
)
_MARKS = ("hf_", "ask_", "sk-", "sb_", "eyj", "earer", "://")
"""`_SECRETS` matches no text that has none of these in lower case. Such a search is much faster than the expression."""


def redact(text: str) -> str:
    """Replace everything that looks like a credential: tokens, keys, passwords in URLs."""
    return _SECRETS.sub("[redacted]", text)


def _redact_event(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = redact(value)
    return event


def _stamp(_logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Put time and level before the fields of the event. orjson writes the time, faster than structlog's stamper."""
    return {"timestamp": datetime.now(UTC), "level": method, "event": event.pop("event"), **event}


def _render_json(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> str:
    """One line of JSON. Only a line that holds a part of a credential is searched for credentials, field by field."""
    line = _dumps(event)
    lower = line.lower()
    if any(mark in lower for mark in _MARKS):
        return _dumps(_redact_event(None, "", event))
    return line


def _dumps(event: MutableMapping[str, Any]) -> str:
    return orjson.dumps(event, default=str, option=orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS).decode()


@contextlib.contextmanager
def logging_to(stream: TextIO, settings: Settings) -> Iterator[LogWriter]:
    """Send all logs, those of libraries included, to a stream in one format. The command line calls it once.

    No log call waits for the stream. The end of the block writes the remaining lines, within `CLOSE_TIMEOUT_S`.
    """
    log_format = settings.log_format or (LogFormat.CONSOLE if stream.isatty() else LogFormat.JSON)
    shared: list[Any]
    renderer: Any
    if log_format is LogFormat.JSON:
        shared = [_stamp, structlog.processors.format_exc_info]
        renderer = _render_json
    else:
        shared = [
            structlog.stdlib.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _redact_event,
        ]
        renderer = structlog.dev.ConsoleRenderer(colors=stream.isatty())

    def describe_drop(count: int) -> str:
        event: Any = {"event": "log_lines_dropped", "count": count}
        for processor in (*shared, renderer):
            event = processor(None, "warning", event)
        return f"{event}\n"

    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    with contextlib.closing(LogWriter(stream.fileno(), describe_drop=describe_drop)) as output:
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
