"""A client of server-sent events that keeps what it was told, by the rules of WHATWG HTML, 9.2.6."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from aiohttp import ClientResponse


@dataclass(frozen=True, slots=True)
class Told:
    """One event as it came."""

    id: str
    name: str
    data: Any


@dataclass(slots=True)
class EventSource:
    """Reads one response. `comments` and `retries` are what an event handler would not see."""

    response: ClientResponse
    comments: list[str] = field(default_factory=list)
    retries: list[str] = field(default_factory=list)

    async def __aiter__(self) -> AsyncIterator[Told]:
        fields: dict[str, str] = {}
        async for raw in self.response.content:
            line = raw.decode().removesuffix("\n")
            name, _, value = line.partition(":")
            if not line:
                if "data" in fields:
                    yield Told(fields.get("id", ""), fields.get("event", "message"), json.loads(fields["data"]))
                fields = {}
            elif not name:
                self.comments.append(value.strip())
            elif name == "retry":
                self.retries.append(value.strip())
            else:
                assert name not in fields, f"two lines of {name}"
                fields[name] = value.removeprefix(" ")

    async def all(self, timeout_s: float = 20) -> list[Told]:
        """Everything to the end of the response."""
        async with asyncio.timeout(timeout_s):
            return [told async for told in self]

    async def until(self, name: str, timeout_s: float = 20) -> list[Told]:
        """Everything up to the first event of that name."""
        heard: list[Told] = []
        async with asyncio.timeout(timeout_s):
            async for told in self:
                heard.append(told)
                if told.name == name:
                    return heard
        raise AssertionError(f"{name} never came: {[told.name for told in heard]}")


def joined(events: list[Told], segment: str = "output") -> str:
    """The text of a segment; a reset throws away what was there."""
    text = ""
    for told in events:
        if told.name == "reset":
            text = ""
        elif told.name == "delta" and told.data["segment"] == segment:
            text += told.data["text"]
    return text


def final_of(events: list[Told]) -> Told:
    """The one final event, which is the last."""
    finals = [told for told in events if told.name in {"completed", "failed", "cancelled"}]
    assert [events[-1]] == finals
    return finals[0]
