"""aiohttp's client protocol with a bound for interim responses: a hostile provider can send `100 Continue` for ever."""

from typing import Any

from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError

MAX_INTERIM_RESPONSES = 16
_SLICE_BYTES = 4096
"""Parsed at a time until the final response: a whole read could hold 10,000 interim responses, which block the loop."""
_SWITCHING = 101


class BoundedResponseHandler(ResponseHandler):
    """One connection. After too many interim responses (1xx) it is aborted; its reader gets `HttpProcessingError`."""

    _interim = 0
    _is_final = False

    def set_response_params(self, **options: Any) -> None:
        self._interim, self._is_final = 0, False
        super().set_response_params(**options)

    def data_received(self, data: bytes) -> None:
        while len(data) > _SLICE_BYTES and not self._is_final and self.transport is not None:
            super().data_received(data[:_SLICE_BYTES])
            data = data[_SLICE_BYTES:]
        if self.transport is not None:
            super().data_received(data)

    def feed_data(self, data: Any, size: int = 0) -> None:
        """Queue one parsed response."""
        code = data[0].code
        self._is_final = code // 100 != 1 or code == _SWITCHING
        if not self._is_final:
            self._interim += 1
            if self._interim > MAX_INTERIM_RESPONSES:
                if self.transport is not None:
                    self.abort()
                    self.set_exception(HttpProcessingError(message="too many interim responses"))
                return
        super().feed_data(data, size)
