"""Receives the hints of other instances: a connection that LISTENs, and an echo to itself that proves it works."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import orjson
import structlog

from server.actors.heartbeat import Lease
from server.actors.peer_notifier import EVERYONE, PeerNotifier, channel_of
from server.storage.database import Connect
from server.storage.faults import Fault, classify

ECHO_INTERVAL_S = 5.0
ECHO_TIMEOUT_S = 3.0
_LISTEN_TIMEOUT_S = 5.0
_RETRY_S = 2.0
_ALONE_S = 0.3

log = structlog.get_logger(__name__)

Handler = Callable[..., None]


class Listener:
    """Connects only while other instances live (at most `most_instances`), and only with a session to `connect` to.

    Hints save time only: every change is also found by a query, a little later.
    """

    def __init__(
        self,
        connect: Connect | None,
        *,
        lease: Lease,
        hints: PeerNotifier,
        handlers: Mapping[str, Handler],
        most_instances: int | None = None,
    ) -> None:
        self._connect = connect
        self._lease = lease
        self._most_instances = most_instances
        self._hints = hints
        self._handlers = {**handlers, "echo": self._on_echo}
        self._echo = asyncio.Event()
        self.is_heard = False
        """Whether hints arrive: the last echo came back."""

    async def run(self) -> None:
        while True:
            if self._connect is None or not self._has_reason:
                await asyncio.sleep(_ALONE_S)
                continue
            try:
                await self._listen(self._connect)
            except Exception as error:
                if not isinstance(error, TimeoutError) and classify(error) is Fault.REJECTED:
                    raise
                log.debug("listening_failed", reason=f"{type(error).__name__}: {error}")
                await asyncio.sleep(_RETRY_S)

    @property
    def _has_reason(self) -> bool:
        is_crowded = self._most_instances is not None and self._lease.live_instances > self._most_instances
        return not self._lease.is_alone and not is_crowded

    async def _listen(self, connect: Connect) -> None:
        """Listen until the connection fails, this instance takes another id, or there is no more reason to listen."""
        connection = await connect()
        instance_id = self._lease.instance_id
        try:
            async with asyncio.timeout(_LISTEN_TIMEOUT_S):
                for channel in (EVERYONE, channel_of(instance_id)):
                    await connection.add_listener(channel, self._receive)
            while self._has_reason and self._lease.instance_id == instance_id:
                self._echo.clear()
                self._hints.notify(instance_id, "echo")
                async with asyncio.timeout(ECHO_TIMEOUT_S):
                    await self._echo.wait()
                self.is_heard = True
                await asyncio.sleep(ECHO_INTERVAL_S)
        finally:
            self.is_heard = False
            connection.terminate()

    def _receive(self, _connection: Any, _pid: int, channel: str, payload: object) -> None:
        """Call the handlers of a payload. Bad messages are ignored: every client of the database may send NOTIFY."""
        try:
            sender, *messages = orjson.loads(str(payload))
        except (ValueError, TypeError):
            log.debug("hint_not_understood", channel=channel)
            return
        if channel == EVERYONE and sender == str(self._lease.instance_id):
            return
        for message in messages:
            try:
                kind, *details = message
                handler = self._handlers.get(kind, _ignore)  # a later version may send more kinds
                handler(*details)
            except (ValueError, TypeError, AttributeError) as error:
                log.debug("hint_not_understood", channel=channel, reason=f"{type(error).__name__}: {error}")

    def _on_echo(self) -> None:
        self._echo.set()


def _ignore(*_details: object) -> None:
    pass
