"""The use cases of model requests, for one user and without HTTP: create, get, list, stream, cancel, delete."""

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, Self, TypeVar

import structlog

from server.actors.feeds import Feeds
from server.actors.subscription import StreamSubscription, Subscription, View, Waiter
from server.actors.subscriptions import Subscriptions
from server.actors.writes import NewRequest
from server.catalog import Catalog, read_create
from server.encoding import dumps
from server.errors import NotFound, Problem, RateLimited, Unavailable
from server.files.input_files import InputFiles, require_in_place
from server.inference.events import Upstream, lists
from server.limits.concurrency import ConcurrencyLimiter
from server.limits.rates import RateLimitResult
from server.limits.shared_rates import SharedRateLimiter
from server.model_request import InstanceId, RequestId, Status, UserId, mint_id
from server.requests.admission import NO_DIGESTS, Admission, Admitted, fingerprint_of
from server.requests.history import Filters, History, Page
from server.requests.stream import Cursor, RequestStream
from server.storage.reader import PooledQueries
from server.transcript import Transcript

CANCEL_WAIT_S = 5.0
"""Time for the owner to stop and to record the outcome. It takes longer only if the owner cannot be reached."""
_ASK_AGAIN_S = 0.2

AnySubscription = TypeVar("AnySubscription", bound=Subscription)

log = structlog.get_logger(__name__)


class Runs(Protocol):
    """The running requests of all instances."""

    def find_transcript(self, request_id: RequestId, epoch: int) -> Transcript | None: ...

    def cancel(self, request_id: RequestId, owner: InstanceId) -> None: ...


@dataclass(slots=True)
class Created(Generic[AnySubscription]):
    """An accepted request that its creator is subscribed to, until the end of a `with` block.

    It holds no prompt, because thousands may wait. `delay_s` is the delay of the start by a rate limit. `is_replayed`:
    it is the earlier request of the idempotency key.
    """

    subscription: AnySubscription
    is_replayed: bool
    delay_s: float
    deadline_s: float
    model: str | None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.subscription.__exit__(*error)


class ModelRequests:
    """Every method is for one user: requests of others do not exist for them."""

    def __init__(
        self,
        *,
        admission: Admission,
        history: History,
        subscriptions: Subscriptions,
        feeds: Feeds,
        reader: PooledQueries,
        input_files: InputFiles,
        catalog: Catalog,
        upstream: Upstream,
        rates: SharedRateLimiter,
        concurrency: ConcurrencyLimiter,
        runs: Runs,
        deadline_s: float,
        on_deleted: Callable[[], None],
    ) -> None:
        self.admission = admission
        self.history = history
        self.subscriptions = subscriptions
        self.input_files = input_files
        self._feeds = feeds
        self._reader = reader
        self._catalog = catalog
        self._upstream = upstream
        self._rates = rates
        self._concurrency = concurrency
        self._runs = runs
        self._deadline_s = deadline_s
        self._on_deleted = on_deleted

    def require_capacity(self) -> None:
        """Raise `Unavailable` while too many creates are in progress."""
        self._concurrency.require_room()

    def require_chance(self, user_id: UserId) -> None:
        """Raise `Unavailable` if a create of this user would be refused. To call before its body is read."""
        self.admission.require_chance(user_id)

    async def create(
        self,
        user_id: UserId,
        body: Any,
        *,
        sent: Any,
        key: str | None,
        digests: Mapping[str, str] = NO_DIGESTS,
        subscribe: Callable[[Subscriptions, RequestId], AnySubscription],
        may_be_put_off: bool = False,
        deadline_s: float | None = None,
        on_rate: Callable[[RateLimitResult], None] = lambda _: None,
    ) -> Created[AnySubscription]:
        """Store a request and start it, or find the earlier request of its idempotency key.

        `body` is the body of `POST /api/requests`. `sent` is the body as the client sent it, for the fingerprint;
        `digests` has a text for each reference to a file that was inside that body.
        `subscribe` makes a `Waiter` or a `StreamSubscription`, before the row is stored, so that no change is missed.
        Beyond the rate limit, a request that may be put off is accepted and starts later. `on_rate` gets the result of
        the rate limit, also before a refusal.

        Raises `Invalid`, `NotFound`, `RateLimited`, `Unavailable`, `KeyReused`, and `Unauthenticated`.
        """
        named = body.get("model") if isinstance(body, dict) else None
        is_listed: bool | None = False
        if isinstance(named, str) and self._catalog.follows_listing:
            is_listed = await lists(self._upstream, named)
        draft = self._draft(user_id, body, key=key, deadline_s=deadline_s, is_listed=is_listed)
        require_in_place(digests, draft.input_data, draft.parameters)
        if key is not None:
            draft.fingerprint = fingerprint_of(sent, digests)
        with contextlib.ExitStack() as undo:
            subscription = subscribe(self.subscriptions, draft.id)
            undo.enter_context(subscription)
            with self._concurrency.acquire():
                admitted, delay_s = await self._admit(draft, may_be_put_off=may_be_put_off, on_rate=on_rate)
            if admitted.is_replayed:
                undo.close()
                subscription = subscribe(self.subscriptions, admitted.request_id)
                undo.enter_context(subscription)
            subscription.seen = admitted.view
            undo.pop_all()
        return Created(subscription, admitted.is_replayed, delay_s, draft.deadline_s, draft.model)

    def _draft(
        self, user_id: UserId, body: Any, *, key: str | None, deadline_s: float | None, is_listed: bool | None
    ) -> NewRequest:
        create, input_data, parameters, model = read_create(self._catalog, body, is_listed=is_listed)
        return NewRequest(
            id=mint_id(),
            user_id=user_id,
            model_type=create.model_type,
            model=model,
            input_data=dumps(input_data),
            parameters=dumps(parameters),
            owner=None,
            deadline_s=deadline_s or create.deadline_s or self._deadline_s,
            key=key,
        )

    async def _admit(
        self, draft: NewRequest, *, may_be_put_off: bool, on_rate: Callable[[RateLimitResult], None]
    ) -> tuple[Admitted, float]:
        """Returns also the delay of the start in seconds. A retry is answered before any limit is checked.

        If the request is not stored, its delayed start is given back to the rate limit.
        """
        if draft.key is not None and draft.fingerprint is not None:
            earlier = await self.admission.find_earlier(draft.user_id, draft.key, draft.fingerprint)
            if earlier is not None:
                return earlier, 0.0
        delay_s = await self._check_rate(draft.user_id, may_be_put_off=may_be_put_off, on_rate=on_rate)
        is_new = False
        try:
            admitted = await self._store(draft, delay_s)
            is_new = not admitted.is_replayed
            return admitted, delay_s
        finally:
            if delay_s > 0 and not is_new:
                await self._rates.refund(draft.user_id)

    async def _check_rate(
        self, user_id: UserId, *, may_be_put_off: bool, on_rate: Callable[[RateLimitResult], None]
    ) -> float:
        result = await self._rates.check(user_id)
        if result is None:
            return 0.0
        on_rate(result)
        if result.allowed:
            return 0.0
        if may_be_put_off:
            return await self._rates.reserve(user_id)
        raise RateLimited(
            f"Too many requests: {result.limit} a minute are allowed (requests_per_minute). Wait, or send "
            "'Prefer: respond-async' to have it queued.",
            retry_after_s=result.retry_after_s,
        )

    async def _store(self, draft: NewRequest, delay_s: float) -> Admitted:
        """Store the request. Its uses of files are stored first, so that the files cannot be deleted in between."""
        has_files = await self.input_files.attach(draft.user_id, draft.id, draft.input_data)
        try:
            admitted = await self.admission.admit(draft, delay_s=delay_s)
        except Unavailable:
            raise  # it may have been stored, with the reply lost; otherwise the uses expire
        except Problem:
            await self._detach(draft, has_files=has_files)
            raise
        if admitted.is_replayed:
            await self._detach(draft, has_files=has_files)
        return admitted

    async def _detach(self, draft: NewRequest, *, has_files: bool) -> None:
        if has_files:
            with contextlib.suppress(Unavailable):  # then the uses expire
                await self.input_files.detach(draft.id)

    async def get(self, user_id: UserId, request_id: RequestId) -> View:
        """The current state of the request. Raises `NotFound`."""
        view = await self.history.get(request_id, user_id)
        if view is None:
            raise _not_found()
        return view

    async def last_known(self, user_id: UserId, waiter: Waiter) -> View:
        """As `get`, or the last known state while the database is away."""
        try:
            return await self.get(user_id, waiter.request_id)
        except Unavailable:
            if waiter.seen is None or waiter.seen.body is None:
                raise
            return waiter.seen

    async def page(self, user_id: UserId, filters: Filters) -> Page:
        """Requests of the user, newest first. A filter by one name of a model type finds all its names."""
        types = filters.model_types
        if types is not None:
            types = [other for name in types for other in self._catalog.names_of(name)]
        return await self.history.page(user_id, replace(filters, model_types=types))

    def watch(self, request_id: RequestId) -> Waiter:
        """A waiter for the end of a request, or for a change. Enter it, `get` the request, then wait."""
        return self.subscriptions.watch(request_id)

    def follow(self, request_id: RequestId) -> StreamSubscription:
        """A subscription for `stream`. Enter it first."""
        return self.subscriptions.follow(request_id)

    def stream(
        self, user_id: UserId, subscription: StreamSubscription, *, after: Cursor | None = None
    ) -> RequestStream:
        """The events of the request of `subscription`, after the cursor."""
        request_id = subscription.request_id

        async def read_stored() -> Transcript | None:
            return await self.history.transcript(request_id, user_id)

        return RequestStream(
            subscription,
            read_view=lambda: self.history.get(request_id, user_id),
            read_stored=read_stored,
            find_live=self._runs.find_transcript,
            after=after,
        )

    async def cancel(self, user_id: UserId, request_id: RequestId) -> View:
        """Cancel the request if it has not ended. Returns its state afterwards. Raises `NotFound`."""
        with self.subscriptions.watch(request_id) as waiter:
            row = await self._reader.fetch_row("cancel_request", request_id, user_id)
            if row is not None and row["status"] == Status.CANCELLED:
                log.info("request_cancelled", id=str(request_id))
                view = View(Status.CANCELLED, row["epoch"])
                self.subscriptions.publish(request_id, view)
                self._feeds.notify(user_id, request_id, view)
            elif row is not None:
                await self._stop(waiter, row["owner"])
            return await self.get(user_id, request_id)

    async def _stop(self, waiter: Waiter, owner: InstanceId) -> None:
        """Ask the owner of a run to stop it, and wait for its end, at most `CANCEL_WAIT_S`.

        The owner is asked repeatedly, because a claim may not be in its workload yet, and hints can be lost.
        """
        give_up_at = time.monotonic() + CANCEL_WAIT_S
        while True:
            self._runs.cancel(waiter.request_id, owner)
            if await waiter.is_notified(within_s=_ASK_AGAIN_S) or time.monotonic() >= give_up_at:
                return

    async def delete(self, user_id: UserId, request_id: RequestId) -> None:
        """Delete the request with its files. A running request is cancelled first, so that its readers see an end.

        Raises `NotFound`.
        """
        view = await self.cancel(user_id, request_id)
        if not await self._reader.fetch("delete_request", request_id, user_id):
            raise _not_found()
        self._on_deleted()
        log.info("request_deleted", id=str(request_id), status=view.status)


def _not_found() -> NotFound:
    return NotFound("There is no model request of yours with this id.")
