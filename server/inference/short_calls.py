"""Short questions to a provider, whose answers are read whole: which models it has, whether it takes the token."""

from dataclasses import dataclass
from datetime import UTC, datetime

from server.inference.inflating import BadCoding, inflater_for
from server.inference.protocol import Judge, UpstreamError, WireRequest, is_success, read_refusal
from server.inference.transport import TRANSPORT_ERRORS, Transport, explain

QUESTION_S = 10.0
MAX_REPLY_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Reply:
    """A short answer; `error` where there is none, or an error."""

    body: bytes = b""
    error: UpstreamError | None = None


async def ask(transport: Transport, wire: WireRequest, *, judge: Judge = read_refusal) -> Reply:
    """The answer within `QUESTION_S`, up to `MAX_REPLY_BYTES` of it; never raises for a fault of upstream."""
    body = bytearray()
    try:
        async with transport.send(wire, timeout_s=QUESTION_S) as response:
            inflater = inflater_for(response.headers)
            while len(body) < MAX_REPLY_BYTES and (chunk := await response.content.readany()):
                for piece in (chunk,) if inflater is None else inflater.feed(chunk):
                    body += piece
                    if len(body) >= MAX_REPLY_BYTES:
                        break
    except TRANSPORT_ERRORS as error:
        return Reply(error=explain(error, timeout_s=QUESTION_S))
    except BadCoding:
        return Reply(error=UpstreamError("The model provider's answer could not be unpacked.", is_transient=True))
    if is_success(response.status):
        return Reply(bytes(body))
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Reply(error=judge(response.status, headers, bytes(body), now=datetime.now(UTC)))
