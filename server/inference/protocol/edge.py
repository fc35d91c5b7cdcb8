"""Requests to the edge function `hf-inference`, and its errors (docs/edge-function.md). Pure."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from server.errors import Code
from server.inference.events import Call
from server.inference.protocol.chat import with_files
from server.inference.protocol.faults import MODEL_GONE, TRANSIENT, UpstreamError, read_retry_after, refuses_request
from server.inference.protocol.texts import Unintelligible, parse_json, to_words
from server.inference.protocol.wire import WireRequest, encode

_HEADERS = {"Content-Type": "application/json", "Accept": "text/event-stream, application/json"}
_DEPLOY = "The operator must run: supabase functions deploy hf-inference."
_KEY = "The operator must set SUPABASE_SERVICE_ROLE_KEY to a secret key of the project that the function runs in."
_WORTH_ANOTHER_CALL = frozenset({429, 503, 504})
_UNAUTHORISED, _NOT_FOUND = 401, 404


def build_edge_call(call: Call, url: str) -> WireRequest:
    """The function tries the whole chain of models and forwards a stream. It has no access to files."""
    body = {
        "task": call.task.value,
        "models": call.models,
        "input": _with_files_inside(call),
        "parameters": dict(call.parameters),
        "stream": True,
    }
    return WireRequest("POST", url, _HEADERS, encode(body))


def _with_files_inside(call: Call) -> dict[str, Any]:
    messages = call.input_data.get("messages")
    if messages is None:
        return dict(call.input_data)
    return {**call.input_data, "messages": [with_files(call, message) for message in messages]}


def build_edge_probe(url: str) -> WireRequest:
    """A call without a task: the function checks the key first, then refuses the call, and nothing is generated."""
    return WireRequest("POST", url, _HEADERS, b"{}")


def read_edge_refusal(status: int, headers: Mapping[str, str], body: bytes, *, now: datetime) -> UpstreamError:
    """The error of an unsuccessful answer, of the function or of the platform in front of it.

    The function has retried by its own settings: what is left is not tried again here, but later, from the backlog.
    """
    try:
        document = parse_json(body)
    except Unintelligible:
        document = None
    code = document.get("code") if isinstance(document, dict) else None
    if isinstance(document, dict) and code in set(Code) and isinstance(document.get("detail"), str):
        return _of_function(status, headers, document, now)
    return _of_platform(status, headers, document, now)


def _of_function(status: int, headers: Mapping[str, str], document: Mapping[str, Any], now: datetime) -> UpstreamError:
    if document["code"] == Code.AUTH_ERROR:
        return UpstreamError(f"The edge function does not take this server's key. {_KEY}", status=status)
    said = headers.get("x-upstream-status", "")
    is_upstreams = said.isascii() and said.isdecimal() and len(said) < 4  # noqa: PLR2004
    is_transient = status in _WORTH_ANOTHER_CALL
    return UpstreamError(
        to_words(document["detail"]) or "The edge function refused the request.",
        status=int(said) if is_upstreams else status,
        is_transient=is_transient,
        retry_after_s=read_retry_after(status, headers, document, now) if is_transient else None,
        max_retries=0,
        is_model_missing=is_upstreams and int(said) in MODEL_GONE,
        is_refused=is_upstreams and not is_transient and refuses_request(int(said)),
    )


def _of_platform(status: int, headers: Mapping[str, str], document: Any, now: datetime) -> UpstreamError:
    if status == _NOT_FOUND:
        return UpstreamError(f"The edge function hf-inference is not there. {_DEPLOY}", status=status)
    if status == _UNAUTHORISED:
        words = "The platform asks for a token of a user before the edge function is reached."
        return UpstreamError(f"{words} {_DEPLOY} (supabase/config.toml switches that off.)", status=status)
    is_transient = status in TRANSIENT
    return UpstreamError(
        f"The edge function cannot answer at the moment ({status}).",
        status=status,
        is_transient=is_transient,
        retry_after_s=read_retry_after(status, headers, document, now) if is_transient else None,
    )
