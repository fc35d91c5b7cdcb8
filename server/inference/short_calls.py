"""Short calls to a provider, whose answers are read as a whole: lists of models, checks of the token."""

from dataclasses import dataclass
from datetime import UTC, datetime

from server.inference.answer_body import BadAnswer, require_plain
from server.inference.protocol import Judge, UpstreamError, WireRequest, is_success, read_refusal
from server.inference.transport import TRANSPORT_ERRORS, Transport, explain

CALL_TIMEOUT_S = 10.0
MAX_REPLY_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Reply:
    """A short answer. `error` is set for an error answer, or without an answer."""

    body: bytes = b""
    error: UpstreamError | None = None


async def fetch_reply(transport: Transport, wire: WireRequest, *, judge: Judge = read_refusal) -> Reply:
    """The answer within `CALL_TIMEOUT_S`, cut at `MAX_REPLY_BYTES`. Never raises for a fault of upstream."""
    body = bytearray()
    unreadable: UpstreamError | None = None
    try:
        async with transport.send(wire, timeout_s=CALL_TIMEOUT_S) as response:
            require_plain(response.headers)
            while len(body) < MAX_REPLY_BYTES and (chunk := await response.content.readany()):
                body += chunk
    except TRANSPORT_ERRORS as error:
        return Reply(error=explain(error, timeout_s=CALL_TIMEOUT_S))
    except BadAnswer as fault:
        unreadable = fault.error
    if is_success(response.status):
        return Reply(bytes(body), unreadable)
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Reply(error=judge(response.status, headers, bytes(body), now=datetime.now(UTC)))
