"""Downloads and caches the public keys with which a Supabase project signs its tokens."""

import asyncio
import time
from collections.abc import Callable

import aiohttp
import structlog

from server.auth.public_keys import USABLE_KEYS, NotAKeySet, PublicKey, name_unusable_keys, read_key_set

TTL_S = 600.0
"""Supabase's own edge caches the list for the same time. Older keys stay in use during a download."""
COOLDOWN_S = 30.0
"""Least time between two downloads before the TTL has passed: for an unknown key, or after a failure."""
UNKNOWN_S = 120.0
"""A `kid` that was not in the list starts no download for this long."""
UNLOADED_RETRY_S = 5.0
MAX_UNKNOWN = 1000
MAX_PAUSE_S = 300.0
TIMEOUT_S = 5.0
MAX_BODY_BYTES = 256 * 1024
_OK = 200
_TRANSPORT_ERRORS = (aiohttp.ClientError, OSError, TimeoutError)

log = structlog.get_logger(__name__)


class KeySet:
    """Runs at most one download at a time. A failed download leaves the keys unchanged.

    `generation` changes with the keys: tokens that were verified before must be verified again.
    """

    def __init__(self, url: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = url
        self._clock = clock
        self._keys: dict[str, PublicKey] = {}
        self._raw = b""
        self._unknown: dict[str, float] = {}
        self._fetched_at: float | None = None
        self._next_try_at = float("-inf")
        self._failures = 0
        self._fetching: asyncio.Task[None] | None = None
        self._session: aiohttp.ClientSession | None = None
        self.generation = 0

    @property
    def is_loaded(self) -> bool:
        """Whether a download has ever succeeded. Before that, an unknown key may be valid."""
        return self._fetched_at is not None

    def get(self, kid: str) -> PublicKey | None:
        return self._keys.get(kid)

    def refresh_if_due(self) -> None:
        """Start a download if the list is older than its TTL. Does not wait."""
        now = self._clock()
        if self._fetched_at is None or now >= self._fetched_at + TTL_S:
            self._fetch_unless_cooling(now)

    async def wait_for_key(self, kid: str) -> float | None:
        """Wait for a download if the key is unknown and one is running or allowed.

        Returns None if the key is known, or missing in a list that was downloaded since it was first asked for.
        Otherwise the seconds until the next download: the key may be in that list.
        """
        self.refresh_if_due()
        if kid in self._keys:
            return None
        now = self._clock()
        is_unknown = now < self._unknown.get(kid, now)
        if not is_unknown:
            self._fetch_unless_cooling(now)
        if self._fetching is not None:
            await asyncio.wait({self._fetching})
            if kid in self._keys:
                return None
            if self.is_loaded and not self._failures:
                self._note_unknown(kid)
                return None
        if is_unknown:
            return None
        return UNLOADED_RETRY_S if not self.is_loaded else max(1.0, self._next_try_at - self._clock())

    async def close(self) -> None:
        """Cancel a running download, and close its connection."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.wait({self._fetching})
        if self._session is not None:
            await self._session.close()

    def _fetch_unless_cooling(self, now: float) -> None:
        if self._fetching is None and now >= self._next_try_at:
            self._fetching = asyncio.create_task(self._fetch(), name="fetch-public-keys")
            self._fetching.add_done_callback(self._end_fetch)

    def _end_fetch(self, task: asyncio.Task[None]) -> None:
        self._fetching = None
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("public_keys_not_fetched", exc_info=error)

    async def _fetch(self) -> None:
        try:
            body = await self._download()
            keys = read_key_set(body)
        except _TRANSPORT_ERRORS as error:
            self._fail(type(error).__name__)
        except NotAKeySet:
            self._fail("the answer is not a JSON Web Key Set")
        else:
            self._store(body, keys)

    async def _download(self) -> bytes:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(TIMEOUT_S), cookie_jar=aiohttp.DummyCookieJar()
            )
        async with self._session.get(self._url, allow_redirects=False) as response:
            body = bytearray()
            while len(body) <= MAX_BODY_BYTES and (chunk := await response.content.readany()):
                body += chunk
            if response.status != _OK or len(body) > MAX_BODY_BYTES:
                raise NotAKeySet
            return bytes(body)

    def _store(self, body: bytes, keys: dict[str, PublicKey]) -> None:
        now = self._clock()
        if body != self._raw:
            self._raw = body
            self._keys = keys
            self.generation += 1
            log.info("public_keys", count=len(keys), kids=sorted(keys))
            if ignored := name_unusable_keys(body):
                log.warning(
                    "public_keys_ignored",
                    keys=ignored,
                    fix=f"Tokens of these keys are refused. Keys for {USABLE_KEYS} are supported: choose one in the "
                    "project's JWT keys.",
                )
        elif self._failures:
            log.info("public_keys_again")
        self._failures = 0
        self._fetched_at = now
        self._next_try_at = now + COOLDOWN_S

    def _fail(self, reason: str) -> None:
        """Log the first failure of an outage, and wait longer before each attempt."""
        if self._failures == 0:
            log.warning(
                "public_keys_unavailable",
                reason=reason,
                url=self._url,
                fix="Check SUPABASE_URL and that the project is not paused. Known keys stay in use.",
            )
        self._failures += 1
        self._next_try_at = self._clock() + min(MAX_PAUSE_S, COOLDOWN_S * 2 ** min(self._failures - 1, 4))

    def _note_unknown(self, kid: str) -> None:
        now = self._clock()
        if len(self._unknown) >= MAX_UNKNOWN:
            self._unknown = {known: until for known, until in self._unknown.items() if until > now}
        if len(self._unknown) < MAX_UNKNOWN and self._unknown.get(kid, now) <= now:
            self._unknown[kid] = now + UNKNOWN_S
