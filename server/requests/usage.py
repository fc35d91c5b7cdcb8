"""Reads what a user has used: totals by day and model, of requests that have ended."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from server.errors import FieldError
from server.model_request import UserId
from server.schemas import invalid
from server.storage.reader import PooledQueries

GROUPS = frozenset({"day", "model"})
DEFAULT_DAYS = 30
MAX_DAYS = 366
MAX_ROWS = 10_000
COUNTS = (
    "completed",
    "failed",
    "cancelled",
    "input_tokens",
    "output_tokens",
    "cached_tokens",
    "reasoning_tokens",
    "total_tokens",
    "unmetered",
    "unpriced",
)


@dataclass(frozen=True, slots=True)
class UsageFilters:
    """UTC days, both included, and what to group by."""

    first: date
    last: date
    groups: frozenset[str] = GROUPS


class UsageHistory:
    """Deleted requests stay counted: usage is written with their outcome, and never taken back."""

    def __init__(self, reader: PooledQueries) -> None:
        self._reader = reader

    async def read(self, user_id: UserId, filters: UsageFilters) -> list[dict[str, Any]]:
        """A row for each group, in order. Raises `Invalid` for more than `MAX_ROWS`, and `Unavailable`."""
        by_day, by_model = "day" in filters.groups, "model" in filters.groups
        rows = await self._reader.fetch(
            "get_usage", user_id, filters.first, filters.last, by_day, by_model, MAX_ROWS + 1
        )
        if len(rows) > MAX_ROWS:
            raise invalid([FieldError("from", f"must be later: the answer would have more than {MAX_ROWS} rows")])
        return [{name: value for name, value in row.items() if name not in GROUPS - filters.groups} for row in rows]


def add_up(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The total of all rows. Its cost is null if no row has a known one."""
    costs = [row["cost_usd"] for row in rows if row["cost_usd"] is not None]
    return {name: sum(row[name] for row in rows) for name in COUNTS} | {"cost_usd": sum(costs) if costs else None}
