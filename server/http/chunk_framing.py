"""How much of a chunked body is framing: aiohttp's parser accepts chunk extensions of any length without counting them.

The parser does not say how many bytes of a read were framing. But each byte of a read is a part of a head, content, or
framing, and the parser tells the size of the first two, and the number of chunks that it completed.
"""

from aiohttp import StreamReader
from aiohttp.http import RawRequestMessage

MAX_FRAMING_BYTES = 4096
"""Of one body, in addition to `BYTES_PER_CHUNK`. Enough for trailers."""
BYTES_PER_CHUNK = 64
"""For the line with the size, and a short extension."""


def weigh(body: StreamReader) -> int:
    """The content of a body so far, and the framing that its chunks may have.

    Only for a difference within one call of the parser: a reader removes the marks of the chunks that it has read.
    """
    chunks = body._http_chunk_splits  # noqa: SLF001 - the only trace of a chunk
    return body.total_bytes + (BYTES_PER_CHUNK * len(chunks) if chunks else 0)


def head_bytes(message: RawRequestMessage) -> int:
    """The size of a request's head, without optional white space."""
    lines = sum(len(name) + len(value) + 4 for name, value in message.raw_headers)
    return len(message.method) + len(message.path) + len("  HTTP/1.1\r\n\r\n") + lines
