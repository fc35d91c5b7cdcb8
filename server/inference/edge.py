"""Runs generations through the Supabase edge function, which holds the Hugging Face token."""

from collections.abc import Mapping
from http import HTTPStatus

from server.inference.events import Call, Check, Listing, UpstreamFault
from server.inference.huggingface import HuggingFace
from server.inference.protocol import (
    AnswerReader,
    OpenReader,
    UpstreamError,
    WireRequest,
    ask_in_known_form,
    build_edge_call,
    build_edge_probe,
    read_edge_refusal,
    reader_for,
)

EDGE_TIMEOUT_S = 155.0
"""The platform ends a call without a first byte after 150 s. The function itself makes the retries."""
_MAX_RETRIES = 1
_NEW_KEY = "sb_"


class EdgeFunction(HuggingFace):
    """Hugging Face through the function: the same answers, other credentials, one call for all attempts."""

    def __init__(
        self, *, supabase_url: str, key: str, timeout_s: float, connections: int, rate_per_minute: int = 0
    ) -> None:
        super().__init__(
            base_url=f"{supabase_url}/functions/v1/hf-inference",
            token=key,
            timeout_s=timeout_s,
            max_retries=_MAX_RETRIES,
            connections=connections,
            rate_per_minute=rate_per_minute,
        )

    async def check(self) -> Check:
        """See `Upstream.check`. A call without a task shows that the function exists and accepts the key."""
        reply = await self._ask(build_edge_probe(self._base_url), judge=read_edge_refusal)
        error = reply.error
        if error is not None and error.status == HTTPStatus.UNPROCESSABLE_ENTITY:
            return Check(None, "The edge function hf-inference answers and accepts the key.")
        if error is None:
            return Check(UpstreamFault.UNEXPECTED, "The service at SUPABASE_URL is not the edge function hf-inference.")
        return self._judge_edge(error)

    async def listing(self, *, max_age_s: float | None = None) -> Listing | None:  # noqa: ARG002 - it has none
        """The function has no list of models."""
        return None

    def _judge_edge(self, error: UpstreamError) -> Check:
        if error.status is None:
            return Check(UpstreamFault.UNREACHABLE, f"{error.message} Check SUPABASE_URL.")
        if error.status == HTTPStatus.UNAUTHORIZED:
            return Check(UpstreamFault.TOKEN_REFUSED, error.message)
        return Check(UpstreamFault.UNEXPECTED, error.message)

    def _credentials(self) -> dict[str, str]:
        """A new key is sent only as `apikey`; an old one is also a bearer token."""
        key = self._token or ""
        bearer = {} if key.startswith(_NEW_KEY) else {"Authorization": f"Bearer {key}"}
        return {"apikey": key, **bearer}

    def _chain(self, _call: Call) -> tuple[str, ...]:
        return ()

    async def _prepare(
        self, call: Call, _model: str | None, _timeout_s: float
    ) -> tuple[str | None, WireRequest, OpenReader]:
        first = next(iter(call.models), "")
        return None, *ask_in_known_form(
            call,
            first,
            self._known_forms,
            build=lambda asked: build_edge_call(asked, self._base_url),
            read=_reader_for(call),
        )


def _reader_for(call: Call) -> OpenReader:
    """With the model that answered, which the function names in a header."""

    def open_reader(status: int, headers: Mapping[str, str]) -> AnswerReader:
        return reader_for(call, headers.get("x-model") or None, judge=read_edge_refusal)(status, headers)

    return open_reader
