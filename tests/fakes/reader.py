"""What a recorded answer says, read independently of the server: from the reference, and whole instead of in pieces."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.fakes.huggingface import body_of

_RETRIED = {408, 424, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529}
_BY_TYPE = {"validation": 422, "template_error": 422, "overloaded": 429, "generation": 424}
_SHOWN = 300
"""How much of upstream's words must be in the message, at least."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """What must come out. `words` must occur in the error message; None where upstream has none that may be shown.

    Of tasks beside text: `data` without provider and files, `files` as (type, bytes), and `fetch`, the address that is
    asked next, for a file or for the state of a job.
    """

    is_ok: bool
    text: str | None = None
    data: dict[str, Any] | None = None
    files: tuple[tuple[str, bytes], ...] = ()
    fetch: str | None = None
    reasoning: str | None = None
    tool_names: tuple[str, ...] = ()
    token_used: int | None = None
    token_count: int | None = None
    is_transient: bool = False
    words: str | None = None


def read(record: Mapping[str, Any]) -> Expectation:
    """The expectation that follows from status, headers and body alone."""
    response = record["response"]
    body = body_of(record).decode("utf-8", "replace")
    headers = {name.lower(): value for name, value in response["headers"].items()}
    if response["status"] != 200:
        return _refusal(response["status"], headers, body)
    documents = _documents(body)
    errors = [document for document in documents if "error" in document]
    if errors:
        return _reported(errors[0])
    if not documents:
        return Expectation(is_ok=False, is_transient=True, words="empty completion")
    if not _has_end(documents, body):
        has_text = _chosen(documents).text or any("token" in document for document in documents)
        return Expectation(is_ok=False, is_transient=not has_text, words="broke off")
    return _generated(documents) if "generated_text" in documents[-1] else _chosen(documents)


def refusal(record: Mapping[str, Any]) -> Expectation | None:
    """The expectation of an answer that is an error, whatever its task; None for a success."""
    response = record["response"]
    headers = {name.lower(): value for name, value in response["headers"].items()}
    if 200 <= response["status"] < 300:
        return None
    return _refusal(response["status"], headers, body_of(record).decode("utf-8", "replace"))


def _documents(body: str) -> list[dict[str, Any]]:
    """Every JSON object of the answer, be it one document or a stream of them."""
    try:
        whole = json.loads(body)
    except ValueError:
        lines = re.findall(r"^data: ?(.+?)\r?$", body, flags=re.MULTILINE)
        return [json.loads(line) for line in lines if line.strip() != "[DONE]"]
    return whole if isinstance(whole, list) else [whole]


def _has_end(documents: list[dict[str, Any]], body: str) -> bool:
    """A stream ends with `[DONE]`, a reason, or TGI's full text; a document by being whole."""
    if not re.search("^data:", body, flags=re.MULTILINE) or "[DONE]" in body:
        return True
    reasons = [choice.get("finish_reason") for document in documents for choice in document.get("choices") or []]
    return any(reasons) or isinstance(documents[-1].get("generated_text"), str)


def _generated(documents: list[dict[str, Any]]) -> Expectation:
    details = documents[-1].get("details") or {}
    generated, prompt = details.get("generated_tokens"), details.get("input_length")
    used = generated + prompt if generated is not None and prompt is not None else None
    return Expectation(is_ok=True, text=documents[-1]["generated_text"], token_used=used, token_count=generated)


def _chosen(documents: list[dict[str, Any]]) -> Expectation:
    firsts = [choice for d in documents for choice in d.get("choices") or [] if choice.get("index", 0) == 0]
    parts = [choice.get("delta") or choice.get("message") or {"content": choice.get("text")} for choice in firsts]
    usages = [document["usage"] for document in documents if document.get("usage")]
    usage = usages[-1] if usages else {}
    if "total_tokens" not in usage and "prompt_tokens" in usage and "completion_tokens" in usage:
        usage = {**usage, "total_tokens": usage["prompt_tokens"] + usage["completion_tokens"]}
    names = [
        call["function"]["name"]
        for part in parts
        for call in _listed(part.get("tool_calls") or [])
        if call["function"].get("name")
    ]
    reasoning = "".join(part.get("reasoning_content") or part.get("reasoning") or "" for part in parts)
    thoughts, text = _inline("".join(part.get("content") or "" for part in parts))
    return Expectation(
        is_ok=True,
        text=text,
        reasoning=reasoning + thoughts or None,
        tool_names=tuple(names),
        token_used=usage.get("total_tokens"),
        token_count=usage.get("completion_tokens"),
    )


def _listed(calls: Any) -> list[Any]:
    """TGI has the one call of a delta without a list around it."""
    return calls if isinstance(calls, list) else [calls]


def _inline(text: str) -> tuple[str, str]:
    """Thoughts at the beginning of a text, and the answer after them."""
    match = re.match(r"\s*<think>(.*?)(?:</think>(.*)|\Z)", text, flags=re.DOTALL)
    if match is None and "<think>" not in text:  # QwQ: its template has the opening tag in the prompt
        match = re.match(r"(.*?)</think>(.*)", text, flags=re.DOTALL)
    return (match[1].strip(), (match[2] or "").lstrip()) if match else ("", text)


def _refusal(status: int, headers: Mapping[str, str], body: str) -> Expectation:
    try:
        document = json.loads(body)
    except ValueError:
        is_page = "<html" in body.lower()
        words = headers.get("x-error-message") if is_page else body
        return Expectation(is_ok=False, is_transient=status in _RETRIED, words=_shown(words))
    is_input_fault = document.get("error") == "unknown error" and "warnings" in document
    return Expectation(
        is_ok=False, is_transient=status in _RETRIED and not is_input_fault, words=_shown(_words(document))
    )


def _reported(document: dict[str, Any]) -> Expectation:
    error = document["error"]
    status = _BY_TYPE.get(document.get("error_type", ""), 500)
    if isinstance(error, dict):
        status = error.get("http_status_code", 500)
    return Expectation(is_ok=False, is_transient=status in _RETRIED, words=_shown(_words(document)))


def _words(document: dict[str, Any]) -> str:
    error = document.get("error")
    match error:
        case {"message": str(message)}:
            return message
        case str():
            return error
        case [str(first), *_]:
            return first
    detail = document.get("detail")
    if isinstance(detail, list):
        return str(detail[0]["msg"])
    return str(detail if detail is not None else document["message"])


def _shown(words: str | None) -> str | None:
    if words is None:
        return None
    words = re.sub(r"on behalf of user .*", "on behalf of user", " ".join(words.split()))
    return words[:_SHOWN].rstrip(". ")
