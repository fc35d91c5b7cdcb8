"""Reads the Hub's answer about a model, and continues at the provider with the provider's id of it."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from http import HTTPStatus

from server.inference.protocol.exchange import AnswerReader, FollowUp, OpenReader, Progress
from server.inference.protocol.faults import Failure, UpstreamError, is_success
from server.inference.protocol.native_ids import follow_redirect, read_native_model
from server.inference.protocol.providers import build_at_provider
from server.inference.protocol.result_reader import Exchange, Last, open_with
from server.inference.protocol.text_response_reader import GARBLED, MAX_ERROR_BYTES
from server.inference.protocol.texts import Unintelligible, parse_json
from server.inference.protocol.wire import BadModel
from server.model_request import NO_USAGE

MAX_REDIRECTS = 2
MAX_DOCUMENT_BYTES = 1024 * 1024
_REDIRECTS = range(300, 400)
_NOT_THERE = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND, HTTPStatus.GONE})
"""Without a token the Hub answers 401 for a missing model."""


def open_lookup(exchange: Exchange, provider: str, *, redirects: int = MAX_REDIRECTS) -> OpenReader:
    def open_reader(status: int, headers: Mapping[str, str]) -> AnswerReader:
        return NativeIdReader(exchange, provider, status, headers, redirects=redirects)

    return open_reader


class NativeIdReader:
    """Implements `AnswerReader`. It yields no events for the user."""

    grace_s: float | None = None
    usage = NO_USAGE

    def __init__(
        self, exchange: Exchange, provider: str, status: int, headers: Mapping[str, str], *, redirects: int
    ) -> None:
        self._exchange = exchange
        self._provider = provider
        self._status = status
        self._headers = {name.lower(): value for name, value in headers.items()}
        self._redirects = redirects
        self._body = bytearray()

    @property
    def is_over(self) -> bool:
        return len(self._body) > (MAX_DOCUMENT_BYTES if is_success(self._status) else MAX_ERROR_BYTES)

    def feed(self, chunk: bytes) -> list[Progress]:
        if not self.is_over:
            self._body += chunk
        return []

    def finish(self, *, cut: UpstreamError | None = None) -> list[Last]:
        if self._status in _REDIRECTS and self._redirects > 0:
            wire = follow_redirect(self._headers.get("location", ""))
            if wire is not None:
                return [FollowUp(wire, open_lookup(self._exchange, self._provider, redirects=self._redirects - 1))]
        if not is_success(self._status):
            return [self._refused()]
        try:
            native = read_native_model(parse_json(bytes(self._body)), self._provider, self._exchange.call.task)
        except Unintelligible:
            return [self._failed(cut or GARBLED)]
        if native is None:
            return [self._failed(self._not_served())]
        exchange = replace(self._exchange, provider=self._provider)
        try:
            wire = build_at_provider(exchange.call, self._provider, native, exchange.base_url)
        except BadModel as error:
            return [self._failed(UpstreamError(str(error), is_model_missing=True))]
        return [FollowUp(wire, open_with(exchange))]

    def _refused(self) -> Failure:
        if self._status in _NOT_THERE:
            return self._failed(self._not_served())
        error = self._exchange.judge(self._status, self._headers, bytes(self._body), now=datetime.now(UTC))
        return self._failed(error)

    def _not_served(self) -> UpstreamError:
        words = f"The provider {self._provider} does not serve this model for {self._exchange.call.task}."
        return UpstreamError(words, status=HTTPStatus.NOT_FOUND, is_model_missing=True)

    def _failed(self, error: UpstreamError) -> Failure:
        return Failure(error, model=self._exchange.model)
