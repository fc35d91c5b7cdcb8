"""The SQL statements as a state machine: what each must do is predicted by a few lines of Python, step by step."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import asyncpg
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from server.model_request import mint_id
from tests.rows import FINAL, add_user

SUSPECT, MAX_ATTEMPTS = 2, 4
LIMIT = 1000
INSTANCES = 3
FOREVER_S, ANY_TIME_S = 3600.0, 0.0

_EMPTY = ("model_requests", "idempotency_keys", "usage_daily", "instances")
_ROWS = "SELECT * FROM public.model_requests"
_OUTCOMES = "SELECT sum(completed) AS completed, sum(failed) AS failed, sum(cancelled) AS cancelled FROM usage_daily"
_ALL_DUE = "UPDATE public.model_requests SET run_at = now() - interval '1 s' WHERE status = 'pending'"
_OVERDUE = "UPDATE public.model_requests SET deadline_at = now() - interval '1 s' WHERE id = $1"
_CANCEL = "UPDATE public.model_requests SET cancel_requested = true WHERE id = $1"
_LAPSE = "UPDATE public.instances SET lease_until = now() - interval '1 s' WHERE id = $1"

Claim = tuple[UUID, int]
"""A request and the epoch under which an instance believes to run it."""


@dataclass(slots=True)
class Expected:
    """A row as it must stand."""

    status: str
    owner: UUID | None
    epoch: int
    attempt: int
    is_cancelled: bool = False
    is_overdue: bool = False

    @property
    def is_live(self) -> bool:
        return self.status not in FINAL

    def end(self, status: str, *, keeps_owner: bool = False) -> None:
        self.status = status
        if not keeps_owner:
            self.owner = None

    def hand_back(self) -> None:
        self.status, self.owner = "pending", None


@dataclass(slots=True)
class World:
    """One database and one connection for all examples; `queries` may be falsified on purpose."""

    connection: "asyncpg.Connection[Any]"
    runner: asyncio.Runner
    queries: Mapping[str, str]
    user_id: UUID = field(default_factory=uuid4)

    def fetch(self, name: str, *args: Any) -> list[asyncpg.Record]:
        """Run a statement of the program. Its rows are put in order: what follows must be the same each time."""
        rows = self.runner.run(self.connection.fetch(self.queries[name], *args))
        return sorted(rows, key=lambda row: str(row.get("id")))

    def execute(self, statement: str, *args: Any) -> None:
        self.runner.run(self.connection.execute(statement, *args))

    def read(self, statement: str) -> list[asyncpg.Record]:
        return self.runner.run(self.connection.fetch(statement))


instances = st.integers(0, INSTANCES - 1)
some = st.integers(0, 7)
"""Which of those there are: a position, taken modulo their number."""


class Statements(RuleBasedStateMachine):
    """Requests, three instances, and whatever can happen to them in any order. `world` is set by the test."""

    world: World

    @initialize()
    def begin(self) -> None:
        for table in _EMPTY:
            self.world.execute(f"DELETE FROM public.{table}")  # noqa: S608 - names of our own
        self.world.user_id = self.world.runner.run(add_user(self.world.connection))
        self.rows: dict[UUID, Expected] = {}
        self.finals: dict[UUID, dict[str, Any]] = {}
        self.epochs: dict[UUID, int] = {}
        self.deleted: dict[UUID, Expected] = {}
        self.keys: dict[str, UUID] = {}
        self.ids = [uuid4() for _ in range(INSTANCES)]
        self.alive = set(self.ids)
        self.believed: dict[UUID, list[Claim]] = {instance: [] for instance in self.ids}
        self.accepts: list[Sequence[Any]] = []
        self.outcomes: list[tuple[UUID, list[Claim]]] = []
        for instance in self.ids:
            self.world.fetch("register_instance", instance, FOREVER_S, "test", 1, "folder 1", None)
        for owner in (None, 0, 1):
            self._accept([None, None], owner, is_reply_lost=False)

    # What the journal does

    @rule(
        keys=st.lists(st.sampled_from("abcd"), max_size=2, unique=True),
        plain=st.integers(0, 2),
        owner=st.none() | instances,
        is_reply_lost=st.booleans(),
    )
    def accept(self, keys: list[str], plain: int, owner: int | None, *, is_reply_lost: bool) -> None:
        self._accept([*keys, *([None] * plain)], owner, is_reply_lost=is_reply_lost)

    def _accept(self, given: list[str | None], owner: int | None, *, is_reply_lost: bool) -> None:
        ids, count = [mint_id() for _ in given], len(given)
        instance = None if owner is None else self.ids[owner]
        batch = (
            *(ids, [self.world.user_id] * count, ["text2text"] * count, [None] * count, [b"{}"] * count),
            *([b"{}"] * count, [instance] * count, [600.0] * count, [0.0] * count, given, [b"same"] * count),
        )
        accepted = {row["id"] for row in self.world.fetch("accept_requests", *batch)}
        self.accepts.append(batch)
        assert accepted == {id_ for id_, key in zip(ids, given, strict=True) if key is None or key not in self.keys}
        for id_, key in zip(ids, given, strict=True):
            if id_ in accepted:
                born = ("pending", 0) if instance is None else ("processing", 1)
                self.rows[id_] = Expected(born[0], instance, born[1], born[1])
                if key is not None:
                    self.keys[key] = id_
                if instance is not None and not is_reply_lost:
                    self.believed[instance].append((id_, 1))

    @precondition(lambda self: self._repeatable())
    @rule(which=some)
    def accept_again(self, which: int) -> None:
        """Of what was not deleted: nobody deletes what is still being accepted."""
        accepts = self._repeatable()
        batch = accepts[which % len(accepts)]
        assert not self.world.fetch("accept_requests", *batch)
        found = self.world.fetch("read_back_accepts", batch[0], batch[1], batch[9])
        told = {row["id"]: row["request_id"] for row in found}
        assert told == {
            id_: self.keys.get(key, id_) if key else id_ for id_, key in zip(batch[0], batch[9], strict=True)
        }

    @precondition(lambda self: self._busy())
    @rule(which=some, count=st.integers(1, 3), status=st.sampled_from(["completed", "failed"]))
    def complete(self, which: int, count: int, status: str) -> None:
        owner = self._pick_busy(which)
        claims = self.believed[owner][:count]
        self._record(owner, claims, status)
        del self.believed[owner][:count]
        self.outcomes.append((owner, claims))

    @precondition(lambda self: self.outcomes)
    @rule(which=some, status=st.sampled_from(["completed", "failed"]))
    def complete_again(self, which: int, status: str) -> None:
        self._record(*self.outcomes[which % len(self.outcomes)], status)

    def _record(self, instance: UUID, claims: list[Claim], status: str) -> None:
        ids, epochs, count = [c[0] for c in claims], [c[1] for c in claims], len(claims)
        nothing: list[Any] = [None] * count
        written = self.world.fetch(
            "record_outcomes",
            *(ids, [instance] * count, epochs, [status] * count, [b'{"output": "x"}'] * count, nothing, nothing),
            *([2] * count, [1] * count, nothing, nothing, nothing, nothing, nothing, nothing),
        )
        assert {(row["id"], row["epoch"]) for row in written} == {c for c in claims if self._holds(instance, c)}
        for claim in claims:
            if self._holds(instance, claim):
                self.rows[claim[0]].end(status, keeps_owner=True)
        fates = self.world.fetch("classify_outcomes", ids, [instance] * count, epochs)
        assert {(row["id"], row["epoch"]): row["status"] for row in fates} == {
            claim: self._fate(instance, claim) for claim in claims
        }

    @precondition(lambda self: self._busy())
    @rule(which=some, count=st.integers(1, 3))
    def release(self, which: int, count: int) -> None:
        owner = self._pick_busy(which)
        claims = self.believed[owner][:count]
        nothing: list[Any] = [None] * len(claims)
        released = self.world.fetch(
            "release_requests",
            *([c[0] for c in claims], [owner] * len(claims), [c[1] for c in claims], [0.0] * len(claims)),
            *(nothing, nothing, nothing),
        )
        held = [claim for claim in claims if self._holds(owner, claim)]
        assert {(row["id"], row["epoch"]) for row in released} == set(held)
        for id_, _ in held:
            row = self.rows[id_]
            row.attempt = max(0, row.attempt - 1)
            if row.is_cancelled:
                row.end("cancelled", keeps_owner=True)
            else:
                row.hand_back()
        del self.believed[owner][:count]

    # What the heartbeat does, and what becomes of instances

    @rule(instance=instances)
    def renew(self, instance: int) -> None:
        owner = self.ids[instance]
        claims = list(dict(self.believed[owner]).items())  # of two claims of one row a workload knows the later
        [news] = self.world.fetch(
            "renew_lease", owner, FOREVER_S, [c[0] for c in claims], [c[1] for c in claims], "folder 1", None
        )
        self.alive.add(owner)
        held = {c[0] for c in claims if self._holds(owner, c)}
        assert news["is_renewed"]
        assert set(news["lost"]) == {c[0] for c in claims} - held
        assert set(news["cancelled"]) == {id_ for id_ in held if self.rows[id_].is_cancelled}
        self.believed[owner] = [claim for claim in self.believed[owner] if claim[0] in held]

    @precondition(lambda self: self._busy())
    @rule(which=some)
    def let_lease_run_out(self, which: int) -> None:
        """It goes on to believe what it believed."""
        owner = self._pick_busy(which)
        self.world.execute(_LAPSE, owner)
        self.alive.discard(owner)

    @precondition(lambda self: self._busy())
    @rule(which=some, other=instances)
    def freeze(self, which: int, other: int) -> None:
        """One stands still while another takes over what it runs: the course of events that fences are for."""
        self.let_lease_run_out(which)
        self.rescue(None, may_judge=True)
        self.claim(other, 4, is_reply_lost=False)

    # What the sweeper does

    @precondition(lambda self: len(self.alive) < INSTANCES)
    @rule(known_dead=st.none() | instances, may_judge=st.booleans())
    def rescue(self, known_dead: int | None, *, may_judge: bool) -> None:
        dead = [] if known_dead is None or self.ids[known_dead] in self.alive else [self.ids[known_dead]]
        rescued = self.world.fetch("rescue_orphans", dead, may_judge, ANY_TIME_S, MAX_ATTEMPTS, SUSPECT, LIMIT)
        orphans = {
            id_: row
            for id_, row in self.rows.items()
            if row.status == "processing" and (row.owner in dead or (may_judge and row.owner not in self.alive))
        }
        assert {row["id"] for row in rescued} == set(orphans)
        for row in orphans.values():
            if row.is_cancelled:
                row.end("cancelled")
            elif row.attempt >= MAX_ATTEMPTS:
                row.end("failed")
            else:
                row.hand_back()
        self.world.execute(_ALL_DUE)

    @precondition(lambda self: any(row.attempt < SUSPECT for row in self._waiting().values()))
    @rule(instance=instances, count=st.integers(1, 4), is_reply_lost=st.booleans())
    def claim(self, instance: int, count: int, *, is_reply_lost: bool) -> None:
        owner = self.ids[instance]
        claimed = self.world.fetch("claim_pending", owner, count, UUID(int=0), SUSPECT, 0, [])
        waiting = sorted(id_ for id_, row in self._waiting().items() if row.attempt < SUSPECT)
        assert {row["id"] for row in claimed} == set(waiting[:count])
        for row in claimed:
            self._take(row, owner, attempts=1, is_reply_lost=is_reply_lost)

    @precondition(lambda self: any(row.attempt >= SUSPECT for row in self._waiting().values()))
    @rule(instance=instances, size=st.sampled_from([1, 4, 8]))
    def claim_quarantined(self, instance: int, size: int) -> None:
        owner = self.ids[instance]
        claimed = self.world.fetch("claim_quarantined", owner, size)
        suspects = {id_: row for id_, row in self._waiting().items() if row.attempt >= SUSPECT}
        least = min((row.attempt for row in suspects.values()), default=SUSPECT)
        group = sorted(id_ for id_, row in suspects.items() if row.attempt == least)
        assert {row["id"] for row in claimed} == set(group[: max(1, size >> (2 * (least - SUSPECT)))])
        for row in claimed:
            self._take(row, owner, attempts=0, is_reply_lost=False)
        ids = [row["id"] for row in claimed]
        epochs, attempts = [row["epoch"] for row in claimed], [row["attempt"] + 1 for row in claimed]
        for _ in range(2):  # the first reply may have been lost
            self.world.fetch("start_quarantined", ids, [owner] * len(ids), epochs, attempts)
        for id_ in ids:
            self.rows[id_].attempt += 1

    @rule(instance=instances)
    def adopt(self, instance: int) -> None:
        owner = self.ids[instance]
        held = [id_ for id_, _ in self.believed[owner]]
        adopted = self.world.fetch("reclaim_own", owner, held, ANY_TIME_S, SUSPECT, LIMIT)
        forgotten = {id_: row for id_, row in self.rows.items() if row.status == "processing" and row.owner == owner}
        forgotten = {id_: row for id_, row in forgotten.items() if id_ not in held}
        assert {row["id"] for row in adopted} == set(forgotten)
        for id_, row in forgotten.items():
            row.epoch += 1
            if row.attempt > SUSPECT:
                row.hand_back()
                row.attempt -= 1
            else:
                self.believed[owner].append((id_, row.epoch))

    @precondition(lambda self: any(self.rows[id_].is_overdue for id_ in self._live()))
    @rule()
    def expire(self) -> None:
        expired = {row["id"] for row in self.world.fetch("expire_requests", ANY_TIME_S, None, LIMIT)}
        assert expired == {id_ for id_, row in self.rows.items() if row.is_live and row.is_overdue}
        for id_ in expired:
            self.rows[id_].end("failed")

    @precondition(lambda self: any(self.rows[id_].is_cancelled for id_ in self._live()))
    @rule()
    def finalise_cancelled(self) -> None:
        ended = {row["id"] for row in self.world.fetch("finalise_cancelled", LIMIT)}
        assert ended == {id_ for id_, row in self.rows.items() if row.status == "pending" and row.is_cancelled}
        for id_ in ended:
            self.rows[id_].end("cancelled")

    # What users and time do

    @precondition(lambda self: self.rows)
    @rule(which=some, is_owner=st.booleans())
    def cancel(self, which: int, *, is_owner: bool) -> None:
        id_ = self._pick_any(which)
        row, user_id = self.rows[id_], self.world.user_id if is_owner else uuid4()
        was_live = row.is_live
        found = self.world.fetch("cancel_request", id_, user_id)
        if is_owner and was_live:
            row.is_cancelled = True
            if row.status == "pending":
                row.end("cancelled")
        told = [(r["id"], r["status"], r["owner"], r["epoch"]) for r in found]
        assert told == ([(id_, row.status, row.owner, row.epoch)] if is_owner and was_live else [])

    @precondition(lambda self: self.rows)
    @rule(which=some, is_owner=st.booleans())
    def delete(self, which: int, *, is_owner: bool) -> None:
        """Whatever it is doing: who runs it finds out."""
        id_ = self._pick_any(which)
        found = self.world.fetch("delete_request", id_, self.world.user_id if is_owner else uuid4())
        assert [row["id"] for row in found] == [id_] * is_owner
        if is_owner:
            self.deleted[id_] = self.rows.pop(id_)

    @precondition(lambda self: self._live())
    @rule(which=some)
    def wish_to_cancel(self, which: int) -> None:
        """As another program would, that only says so."""
        id_ = self._pick(which)
        self.world.execute(_CANCEL, id_)
        self.rows[id_].is_cancelled = True

    @precondition(lambda self: self._live())
    @rule(which=some)
    def let_deadline_pass(self, which: int) -> None:
        id_ = self._pick(which)
        self.world.execute(_OVERDUE, id_)
        self.rows[id_].is_overdue = True

    # What must hold after every step

    @invariant()
    def the_rows_stand_as_they_must(self) -> None:
        found = {row["id"]: dict(row) for row in self.world.read(_ROWS)}
        assert set(found) == set(self.rows), "accepted and stored differ"
        for id_, row in found.items():
            expected = self.rows[id_]
            stands = (row["status"], row["owner"], row["epoch"], row["attempt"])
            assert stands == (expected.status, expected.owner, expected.epoch, expected.attempt)
            assert row["epoch"] >= self.epochs.get(id_, 0), "an epoch went back"
            self.epochs[id_] = row["epoch"]
            if row["status"] in FINAL:
                assert self.finals.setdefault(id_, row) == row, "an outcome changed"

    @invariant()
    def each_outcome_counted_once(self) -> None:
        [counted] = self.world.read(_OUTCOMES)
        statuses = Counter(row.status for row in (*self.rows.values(), *self.deleted.values()))
        assert {status: counted[status] or 0 for status in FINAL} == {status: statuses[status] for status in FINAL}

    def _holds(self, instance: UUID, claim: Claim) -> bool:
        row = self.rows.get(claim[0])
        return row is not None and row.status == "processing" and row.owner == instance and row.epoch == claim[1]

    def _fate(self, instance: UUID, claim: Claim) -> str:
        row = self.rows.get(claim[0])
        if row is None:
            return "gone"
        if row.is_live:
            return "fenced"
        return "mine" if row.owner == instance and row.epoch == claim[1] else "finished_elsewhere"

    def _waiting(self) -> dict[UUID, Expected]:
        return {id_: row for id_, row in self.rows.items() if row.status == "pending" and not row.is_cancelled}

    def _live(self) -> list[UUID]:
        return sorted(id_ for id_, row in self.rows.items() if row.is_live)

    def _repeatable(self) -> list[Sequence[Any]]:
        return [batch for batch in self.accepts if self.deleted.keys().isdisjoint(batch[0])]

    def _busy(self) -> list[UUID]:
        """Instances that believe to run something."""
        return [instance for instance in self.ids if self.believed[instance]]

    def _pick_busy(self, which: int) -> UUID:
        busy = self._busy()
        return busy[which % len(busy)]

    def _pick(self, which: int) -> UUID:
        live = self._live()
        return live[which % len(live)]

    def _pick_any(self, which: int) -> UUID:
        ids = sorted(self.rows)
        return ids[which % len(ids)]

    def _take(self, row: asyncpg.Record, owner: UUID, *, attempts: int, is_reply_lost: bool) -> None:
        expected = self.rows[row["id"]]
        expected.status, expected.owner = "processing", owner
        expected.epoch += 1
        expected.attempt += attempts
        assert (row["epoch"], row["attempt"]) == (expected.epoch, expected.attempt)
        if not is_reply_lost:
            self.believed[owner].append((row["id"], row["epoch"]))
