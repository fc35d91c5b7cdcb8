"""The command `usage`: usage and cost of users, as a table, CSV or JSON."""

import argparse
import csv
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from server.auth.emails import normalise_email
from server.commands.maintenance import open_prepared
from server.encoding import dumps
from server.errors import Invalid
from server.requests.usage import COUNTS, DEFAULT_DAYS, add_up
from server.settings import Settings
from server.storage.queries import statements

GROUPS = ("user", "day", "model")

Rows = Sequence[Mapping[str, Any]]


async def run_usage(settings: Settings, options: argparse.Namespace) -> int:
    """Exit code 0: printed. 1: there is no such account; stderr says so. Works with or without a running server.

    `options` has `user`, `by`, `first`, `last` and `form`. By default the period has 30 days and ends today in UTC.
    """
    last = options.last or datetime.now(UTC).date()
    first = options.first or last - timedelta(days=DEFAULT_DAYS - 1)
    try:
        email = None if options.user is None else normalise_email(options.user)
    except Invalid as problem:
        return _fail(problem.detail)
    async with open_prepared(settings) as connection:
        if email is not None and await connection.fetchrow(statements()["has_account"], email) is None:
            return _fail(f"There is no account with the address {email}.")
        groups = [name in options.by for name in GROUPS]
        found = await connection.fetch(statements()["report_usage"], first, last, email, *groups)
    left_out = set(GROUPS) - set(options.by)
    rows = [{name: value for name, value in row.items() if name not in left_out} for row in found]
    columns = [*(name for name in GROUPS if name in options.by), *COUNTS, "cost_usd"]
    match options.form:
        case "csv":
            _write_csv(columns, rows)
        case "json":
            print(dumps({"data": rows, "total": add_up(rows)}).decode())  # noqa: T201 - the command's output
        case _:
            _write_table(columns, rows)
    return 0


def _write_table(columns: Sequence[str], rows: Rows) -> None:
    """Names to the left, numbers to the right, the total in the last line."""
    lines = [columns, *([_shown(row.get(name)) or "-" for name in columns] for row in (*rows, add_up(rows)))]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (
            f"{cell:<{width}}" if name in GROUPS else f"{cell:>{width}}"
            for name, cell, width in zip(columns, line, widths, strict=True)
        )
        print("  ".join(cells).rstrip())  # noqa: T201 - as above


def _write_csv(columns: Sequence[str], rows: Rows) -> None:
    writer = csv.writer(sys.stdout)
    writer.writerows([columns, *([_shown(row[name]) for name in columns] for row in rows)])


def _shown(value: Any) -> str:
    """An unknown value is empty."""
    if isinstance(value, Decimal):
        return f"{value.normalize():f}"
    return "" if value is None else str(value)


def _fail(reason: str) -> int:
    print(reason, file=sys.stderr)  # noqa: T201 - as above
    return 1
