"""What is known to fail for the time being: models of a provider, and the token. Both are asked again now and then."""

import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from server.inference.protocol import UpstreamError
from server.inference.resilience import Clock

THRESHOLD = 5
"""Failures of a model in a row, after which those that come after it in a chain go first."""
PROBE_PAUSE_S = 10.0
REFUSED_S = 30.0
PROBE_PATIENCE_S = 10.0
"""How long the others wait for what a probe finds out."""
MAX_ENTRIES = 1000
MAX_NAME = 64
"""Characters of a provider's name, which comes from outside."""

_TOKEN_REFUSALS = frozenset({401, 402, 403})
_UNAUTHORISED = 401
_EVERY_MODEL = "*"


@dataclass(slots=True)
class _Circuit:
    failures: int = 0
    probe_at: float = 0.0


class ModelCircuits:
    """Counts per (provider, model). A model is as good as the provider that last answered for it."""

    def __init__(self, *, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._circuits: OrderedDict[tuple[str, str], _Circuit] = OrderedDict()
        self._providers: OrderedDict[str, str] = OrderedDict()

    def order(self, models: Sequence[str]) -> tuple[str, ...]:
        """The chain with what is known to fail at its end. When a probe is due the model keeps its place, this once."""
        if not self._circuits or len(models) < 2:  # noqa: PLR2004 - there is nothing to order
            return tuple(models)
        return tuple(sorted(models, key=self._is_failing))

    def succeed(self, model: str, provider: str | None) -> None:
        """The model began to answer."""
        if self._circuits:
            self._circuits.pop(self._key(model, provider), None)

    def fail(self, model: str, provider: str | None, *, is_missing: bool = False) -> None:
        """The model did not; one that is missing need not be missed more than once."""
        circuit = self._circuits.setdefault(self._key(model, provider), _Circuit())
        circuit.failures += THRESHOLD if is_missing else 1
        circuit.probe_at = self._clock() + PROBE_PAUSE_S
        _bound(self._circuits)

    def _key(self, model: str, provider: str | None) -> tuple[str, str]:
        """Where nobody says who answered, it is who did the last time; a suffix that pins a provider is in the name."""
        provider = self._providers.get(model, "") if provider is None else provider[:MAX_NAME]
        self._providers[model] = provider
        _bound(self._providers)
        return provider, model

    def _is_failing(self, model: str) -> bool:
        circuit = self._circuits.get((self._providers.get(model, ""), model))
        if circuit is None or circuit.failures < THRESHOLD:
            return False
        if self._clock() < circuit.probe_at:
            return True
        circuit.probe_at = self._clock() + PROBE_PATIENCE_S
        return False


@dataclass(slots=True)
class _Refusal:
    error: UpstreamError
    until: float


class TokenRefusals:
    """Remembers for `REFUSED_S` that the token was refused; the first call after that finds out for the others.

    Hugging Face refuses a token altogether (401), but credits and permissions are asked for by model: free ones go on.
    """

    def __init__(self, *, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._refusals: OrderedDict[str, _Refusal] = OrderedDict()

    def standing(self, model: str) -> UpstreamError | None:
        """What upstream would say again, if it was asked."""
        if not self._refusals:
            return None
        refusal = self._refusals.get(_EVERY_MODEL) or self._refusals.get(model)
        if refusal is None:
            return None
        if self._clock() < refusal.until:
            return refusal.error
        refusal.until = self._clock() + PROBE_PATIENCE_S
        return None

    def note(self, model: str, error: UpstreamError, provider: str | None) -> None:
        """Upstream failed; only a refusal of the token counts. A 401 from a provider is no word of Hugging Face."""
        if error.status not in _TOKEN_REFUSALS:
            return
        is_general = error.status == _UNAUTHORISED and provider is None
        self._refusals[_EVERY_MODEL if is_general else model] = _Refusal(error, self._clock() + REFUSED_S)
        _bound(self._refusals)

    def clear(self, model: str) -> None:
        """The token was taken for this model."""
        if self._refusals:
            self._refusals.pop(_EVERY_MODEL, None)
            self._refusals.pop(model, None)


def _bound(table: OrderedDict[Any, Any]) -> None:
    """Forget the oldest entry of a full table."""
    if len(table) > MAX_ENTRIES:
        table.popitem(last=False)
