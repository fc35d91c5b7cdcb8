"""Asynchronous answers: fal.ai's queue, replicate's predictions, wavespeed's and Black Forest Labs' tasks."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit

from server.inference.protocol.addresses import is_dots
from server.inference.protocol.error_documents import words_of
from server.inference.protocol.faults import UpstreamError
from server.inference.protocol.providers import provider_at
from server.inference.protocol.providers.fal import QUEUE
from server.inference.protocol.texts import Unintelligible
from server.inference.protocol.wire import WireRequest

_DONE = frozenset({"completed", "succeeded", "ready"})
_PENDING = frozenset({"in_queue", "in_progress", "queued", "starting", "processing", "created", "pending"})
_FAILED = frozenset(
    {"failed", "error", "canceled", "cancelled", "aborted", "request moderated", "content moderated", "task not found"}
)
FIRST_PAUSE_S = 0.5
MAX_PAUSE_S = 3.0
PAUSE_GROWTH = 1.25


class JobFailed(Exception):
    """The job failed; `error` is the reason."""

    def __init__(self, error: UpstreamError) -> None:
        super().__init__(error.message)
        self.error = error


def find_poll(document: Any, base_url: str, *, polled: WireRequest | None) -> WireRequest | None:
    """The next request, if `document` reports an unfinished job or a result at another address.

    `polled` is the request that `document` answers, if it asked for the state of a job. Raises `JobFailed`.
    """
    job = document.get("data") if isinstance(document, dict) and isinstance(document.get("data"), dict) else document
    if not isinstance(job, dict):
        return None
    status = job.get("status")
    status = status.lower() if isinstance(status, str) else ""
    if status in _FAILED:
        words = words_of(job) or "it gave no reason"
        raise JobFailed(UpstreamError(f"The model provider could not do it: {words.rstrip('.')}."))
    if address := _address(job, is_done=status in _DONE):
        url, query = address
        return get(url, base_url, query=query)
    return polled if status in _PENDING and not job.get("output") else None


def _address(job: Mapping[str, Any], *, is_done: bool) -> tuple[str, str] | None:
    """The address of the job's state or result, and the query that the router needs."""
    response_url, polling_url, urls = job.get("response_url"), job.get("polling_url"), job.get("urls")
    if isinstance(response_url, str):
        return (response_url if is_done else f"{response_url.rstrip('/')}/status"), QUEUE
    if isinstance(polling_url, str):
        return polling_url, ""
    is_pending = not job.get("output") and not job.get("outputs") and not is_done
    if is_pending and isinstance(urls, dict) and isinstance(urls.get("get"), str):
        return urls["get"], ""
    return None


def get(url: str, base_url: str, *, query: str = "") -> WireRequest:
    """A request for an address that upstream named; hosts of providers are called through the router.

    Raises `Unintelligible` for an invalid address.
    """
    try:
        address = urlsplit(url)
        host = address.hostname or ""
    except ValueError:
        raise Unintelligible from None
    headers = {"Accept": "*/*"}
    if provider := provider_at(host):
        if any(is_dots(segment) for segment in address.path.split("/")):
            raise Unintelligible
        path = quote(address.path, safe="/:", errors="replace")
        return WireRequest("GET", f"{base_url.rstrip('/')}/{provider}{path}{query}", headers)
    if address.scheme not in {"http", "https"} or not host:
        raise Unintelligible
    own = urlsplit(base_url)
    is_own = (address.scheme, address.netloc) == (own.scheme, own.netloc)
    return WireRequest("GET", url, headers, is_foreign=not is_own)
