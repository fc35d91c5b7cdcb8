"""The answers of the provider: always the same, so that only the server's own work is measured."""

import json

DELTAS = 200
USAGE = {"prompt_tokens": 12, "completion_tokens": DELTAS, "total_tokens": 12 + DELTAS}
HEAD = {"id": "bench", "created": 1764000000, "model": "org/model"}


def document() -> bytes:
    message = {"role": "assistant", "content": "The quick brown fox jumps over the lazy dog."}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return json.dumps({**HEAD, "object": "chat.completion", "choices": [choice], "usage": USAGE}).encode()


def events() -> bytes:
    """A stream of `DELTAS` deltas."""
    deltas = [{"index": 0, "delta": {"content": f"word{number} "}} for number in range(DELTAS)]
    last = {"index": 0, "delta": {}, "finish_reason": "stop"}
    chunks = [{**HEAD, "object": "chat.completion.chunk", "choices": [choice]} for choice in [*deltas, last]]
    chunks.append({**HEAD, "object": "chat.completion.chunk", "choices": [], "usage": USAGE})
    return b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks) + b"data: [DONE]\n\n"
