"""No order of events makes the statements lose a request or end it twice; what is broken on purpose is found out."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from server.storage.database import Database
from server.storage.queries import statements
from tests.integration.statements import Statements, World

FENCE = "\n    AND row.owner = outcome.owner\n    AND row.epoch = outcome.epoch"
FAULTS = {
    "an outcome without its fence": ("record_outcomes", FENCE, ""),
    "an outcome fenced by the owner only": ("record_outcomes", "\n    AND row.epoch = outcome.epoch", ""),
    "a release without its fence": ("release_requests", "\n    AND row.epoch = released.epoch", ""),
    "a claim that keeps the epoch": ("claim_pending", "epoch = row.epoch + 1", "epoch = row.epoch"),
    "a rescue that revives what was cancelled": ("rescue_orphans", "WHEN row.cancel_requested THEN 'cancelled'", ""),
    "an adoption that keeps the epoch": ("reclaim_own", "epoch = row.epoch + 1", "epoch = row.epoch"),
    "a cancel by anybody": ("cancel_request", "row.user_id = $2", "$2::uuid IS NOT NULL"),
    "a cancel that lets wait what waits": (
        "cancel_request",
        "THEN 'cancelled' ELSE row.status",
        "THEN row.status ELSE row.status",
    ),
    "a deletion by anybody": ("delete_request", "user_id = $2", "$2::uuid IS NOT NULL"),
}


@contextmanager
def _world(url: str, **changes: str) -> Iterator[World]:
    with asyncio.Runner() as runner:
        connection = runner.run(Database(url).connect())
        yield World(connection, runner, {**statements(), **changes})
        connection.terminate()


def _search(world: World, *, examples: int, steps: int, shrinks: bool = True) -> None:
    machine = type("Machine", (Statements,), {"world": world})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            derandomize=True,
            database=None,
            report_multiple_bugs=False,
            phases=[Phase.generate, Phase.shrink] if shrinks else [Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_statements_keep_what_is_promised(database: str, *, is_soak: bool) -> None:
    with _world(database) as world:
        _search(world, examples=500 if is_soak else 60, steps=80 if is_soak else 50)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_statement_that_was_broken_on_purpose_is_found_out(database: str, fault: str) -> None:
    name, part, replacement = FAULTS[fault]
    text = statements()[name]
    assert part in text
    with (
        _world(database, **{name: text.replace(part, replacement, 1)}) as world,
        pytest.raises((AssertionError, asyncpg.IntegrityConstraintViolationError)),
    ):
        _search(world, examples=300, steps=50, shrinks=False)
