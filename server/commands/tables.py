"""Prints rows for people as tables, and for scripts as JSON."""

import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from server.encoding import dumps

Record = Mapping[str, Any]


def print_json(value: Record | Sequence[Record]) -> None:
    """One line of JSON: an object, or an array of objects. Times are RFC 3339 in UTC."""
    sys.stdout.write(dumps(value).decode() + "\n")


def print_table(rows: Sequence[Record]) -> None:
    """A column for each key, as wide as its longest value, and the number of rows."""
    texts = [[_text(value) for value in row.values()] for row in rows]
    heads = [_head(name) for name in rows[0]] if rows else []
    widths = [max(map(len, column)) for column in zip(heads, *texts, strict=True)]
    for cells in ([heads] if rows else []) + texts:
        sys.stdout.write("  ".join(map(str.ljust, cells, widths)).rstrip() + "\n")
    sys.stdout.write(f"({len(rows)} row{'' if len(rows) == 1 else 's'})\n")


def print_record(record: Record) -> None:
    """A line for each key."""
    width = max(map(len, record))
    for name, value in record.items():
        sys.stdout.write(f"{_head(name).lower():<{width}}  {_text(value)}\n")


def _head(name: str) -> str:
    return name.upper().replace("_", " ")


def _text(value: object) -> str:
    """On one line, without characters that a terminal would interpret."""
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
    return "".join(character if character.isprintable() else "?" for character in str(value))
