"""Rate limits that hold over all instances: each borrows calls in blocks from a bucket in the database."""

import asyncio
import contextlib
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from server.errors import Unavailable
from server.limits.rates import MAX_KEYS, RateLimiter, RateLimitResult
from server.model_request import UserId
from server.storage.reader import PooledQueries

BLOCKS = 10
"""A loan is a tenth of the limit."""
LOAN_TIMEOUT_S = 2.0
_PURGE_INTERVAL_S = 600.0


@dataclass(slots=True)
class _Account:
    """The calls of one user that this instance has borrowed, and its view of the bucket at `read_at`."""

    credit: int = 0
    expires_at: float = 0.0
    """By then the bucket has regained all of the credit, one call in each interval: see `_usable`."""
    debt: int = 0
    """Calls that were allowed before they were borrowed."""
    missing: float = 0.0
    read_at: float = 0.0
    refused_until: float = 0.0
    waiting: int = 0
    loan: "asyncio.Future[bool] | None" = None


class SharedRateLimiter:
    """At most `per_minute` calls of a user at all instances together, in bursts of that size. 0 means no limit.

    A call uses borrowed credit and touches nothing else. When half of it is used, more is borrowed in the background,
    for all users in one statement; limits below 20 have loans of one call, without a reserve. The first call of a user
    after a pause is allowed in advance, if the advances of all instances are at most a tenth of the limit; without
    credit a call waits for a loan. While the database is away, each instance allows an even share of the limit.
    """

    def __init__(
        self,
        name: str,
        per_minute: int,
        *,
        reader: PooledQueries,
        instances: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._limit = per_minute
        self._whole = RateLimiter(name, per_minute)
        self._share = (0, self._whole)
        self._block = max(1, per_minute // BLOCKS)
        self._reader = reader
        self._instances = instances
        self._clock = clock
        self._accounts: OrderedDict[UserId, _Account] = OrderedDict()
        self._wanted: dict[UserId, _Account] = {}
        self._is_wanted = asyncio.Event()

    async def check(self, user_id: UserId) -> RateLimitResult | None:
        """Count one call if it is within the rate. None without a limit. A rejected call is not counted."""
        if not self._limit:
            return None
        account = self._account(user_id)
        while not self._take(account):
            if (wait_s := account.refused_until - self._clock()) > 0:
                return self._whole.rejected(wait_s)
            if not await self._wait_for_loan(user_id, account):
                return self._share_of_this_instance().check(user_id)
        is_low = account.credit < self._block // 2 or account.debt
        if is_low and account.refused_until <= self._clock():
            self._borrow(user_id, account)
        return self._whole.allowed(self._used(account))

    def peek(self, user_id: UserId) -> RateLimitResult | None:
        """The result of one more call as far as this instance knows; counts nothing."""
        if not self._limit:
            return None
        account = self._accounts.get(user_id)
        if account is None:
            return self._whole.allowed(0)
        wait_s = 0.0 if self._usable(account) else account.refused_until - self._clock()
        return self._whole.rejected(wait_s) if wait_s > 0 else self._whole.allowed(self._used(account))

    async def look(self, user_id: UserId) -> RateLimitResult | None:
        """As `peek`, from the database. Raises `Unavailable`."""
        if self._limit:
            await self._charge(user_id, 0)
        return self.peek(user_id)

    async def reserve(self, user_id: UserId) -> float:
        """Count one call beyond the rate. Returns the seconds until it may start, one interval after the last one.

        It counts now, so `check` rejects others until that start. Raises `Unavailable`.
        """
        missing = await self._charge(user_id, 1)
        return max(0.0, missing - self._limit) * self._whole.interval_s

    async def refund(self, user_id: UserId) -> None:
        """Undo a `reserve`. Without a database it stays counted."""
        with contextlib.suppress(Unavailable):
            await self._charge(user_id, -1)

    async def run(self) -> None:
        """Borrow for all users whose credit is low, in one statement at a time."""
        purged_at = self._clock()
        while True:
            await self._is_wanted.wait()
            self._is_wanted.clear()
            batch, self._wanted = self._wanted, {}
            try:
                await self._lend(batch)
                if self._clock() - purged_at >= _PURGE_INTERVAL_S:
                    purged_at = self._clock()
                    await self._reader.fetch("delete_full_rates")
            except Unavailable:
                pass  # who waits gets a share of this instance
            finally:
                for account in batch.values():
                    _settle(account, is_paid=False)

    async def _lend(self, batch: dict[UserId, _Account]) -> None:
        counts = {user_id: self._block + account.debt + account.waiting for user_id, account in batch.items()}
        rows = await self._reader.fetch(
            "borrow_rates", list(counts), list(counts.values()), self._whole.interval_s, self._limit
        )
        now = self._clock()
        for row in rows:
            account, granted = batch[row["user_id"]], row["granted"]
            paid = min(account.debt, granted)
            account.debt -= paid
            account.credit = self._usable(account) + granted - paid
            account.expires_at = now + account.credit * self._whole.interval_s
            self._note(account, row["missing"])
            _settle(account, is_paid=True)

    def _account(self, user_id: UserId) -> _Account:
        account = self._accounts.get(user_id)
        if account is None:
            account = self._accounts[user_id] = _Account()
            if len(self._accounts) > MAX_KEYS:
                self._accounts.popitem(last=False)
        self._accounts.move_to_end(user_id)
        return account

    def _usable(self, account: _Account) -> int:
        """The credit, without the calls that the bucket has regained since: they would come on top of the limit."""
        left = math.ceil((account.expires_at - self._clock()) / self._whole.interval_s)
        return max(0, min(account.credit, left))

    def _take(self, account: _Account) -> bool:
        """Use a credit, or the advance of a user of whose bucket nothing is known any more."""
        account.credit = self._usable(account)
        if account.credit:
            account.credit -= 1
            return True
        is_small = self._limit >= BLOCKS * self._instances()
        is_known = account.loan is not None or self._clock() < account.read_at + self._block * self._whole.interval_s
        if account.debt or is_known or not is_small:
            return False
        account.debt = 1
        return True

    def _borrow(self, user_id: UserId, account: _Account) -> "asyncio.Future[bool]":
        if account.loan is None:
            account.loan = asyncio.get_running_loop().create_future()
            self._wanted[user_id] = account
            self._is_wanted.set()
        return account.loan

    async def _wait_for_loan(self, user_id: UserId, account: _Account) -> bool:
        account.waiting += 1
        try:
            async with asyncio.timeout(LOAN_TIMEOUT_S):
                return await asyncio.shield(self._borrow(user_id, account))
        except TimeoutError:
            return False
        finally:
            account.waiting -= 1

    async def _charge(self, user_id: UserId, calls: int) -> float:
        [row] = await self._reader.fetch("charge_rate", user_id, calls, self._whole.interval_s)
        missing: float = row["missing"]
        self._note(self._account(user_id), missing)
        return missing

    def _note(self, account: _Account, missing: float) -> None:
        account.missing, account.read_at = missing, self._clock()
        account.refused_until = account.read_at + max(0.0, missing + 1 - self._limit) * self._whole.interval_s

    def _used(self, account: _Account) -> float:
        """Calls that are missing in the bucket now, without those that are borrowed and not used."""
        regained = (self._clock() - account.read_at) / self._whole.interval_s
        return max(0.0, max(0.0, account.missing - regained) - self._usable(account) + account.debt)

    def _share_of_this_instance(self) -> RateLimiter:
        instances = self._instances()
        if self._share[0] != instances:
            self._share = (instances, RateLimiter(self._name, max(1, self._limit // instances)))
        return self._share[1]


def _settle(account: _Account, *, is_paid: bool) -> None:
    loan, account.loan = account.loan, None
    if loan is not None and not loan.done():
        loan.set_result(is_paid)
