"""Remembers failing models and a refused token. Both are probed again after some time."""

import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from server.inference.protocol import UpstreamError
from server.inference.resilience import Clock

THRESHOLD = 5
"""Failures in a row, after which a model goes to the end of its chain."""
PROBE_PAUSE_S = 10.0
REFUSED_S = 30.0
PROBE_PATIENCE_S = 10.0
"""The time that other calls wait for the result of a probe."""
MAX_ENTRIES = 1000
MAX_NAME = 64
"""Maximum length of a provider's name, which comes from outside."""

_TOKEN_REFUSALS = frozenset({401, 402, 403})
_UNAUTHORISED = 401
_EVERY_MODEL = "*"


@dataclass(slots=True)
class _Circuit:
    failures: int = 0
    probe_at: float = 0.0


class ModelCircuits:
    """Counts failures per provider and model. A model counts as served by the provider that last answered for it."""

    def __init__(self, *, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._circuits: OrderedDict[tuple[str, str], _Circuit] = OrderedDict()
        self._providers: OrderedDict[str, str] = OrderedDict()

    def order(self, models: Sequence[str]) -> tuple[str, ...]:
        """The chain with failing models at its end. A model whose probe is due keeps its place once."""
        if not self._circuits or len(models) < 2:  # noqa: PLR2004 - there is nothing to order
            return tuple(models)
        return tuple(sorted(models, key=self._is_failing))

    def succeed(self, model: str, provider: str | None) -> None:
        """The model began to answer."""
        if self._circuits:
            self._circuits.pop(self._key(model, provider), None)

    def fail(self, model: str, provider: str | None, *, is_missing: bool = False) -> None:
        """The model failed. One failure is enough for a model that does not exist."""
        circuit = self._circuits.setdefault(self._key(model, provider), _Circuit())
        circuit.failures += THRESHOLD if is_missing else 1
        circuit.probe_at = self._clock() + PROBE_PAUSE_S
        _bound(self._circuits)

    def _key(self, model: str, provider: str | None) -> tuple[str, str]:
        """Without a name it is the provider of the last answer. A pinned provider is part of the model's name."""
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
    """Remembers for `REFUSED_S` that the token was refused. After that one call probes for all others.

    Hugging Face refuses a token altogether (401), but credits and permissions are asked for by model: free ones go on.
    """

    def __init__(self, *, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._refusals: OrderedDict[str, _Refusal] = OrderedDict()

    def standing(self, model: str) -> UpstreamError | None:
        """The refusal that a call would get now; None if it may be made."""
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
        """Upstream failed. Only a refusal of the token counts, and a 401 from a provider is none by Hugging Face."""
        if error.status not in _TOKEN_REFUSALS:
            return
        is_general = error.status == _UNAUTHORISED and provider is None
        self._refusals[_EVERY_MODEL if is_general else model] = _Refusal(error, self._clock() + REFUSED_S)
        _bound(self._refusals)

    def clear(self, model: str) -> None:
        """The token was accepted for this model."""
        if self._refusals:
            self._refusals.pop(_EVERY_MODEL, None)
            self._refusals.pop(model, None)


def _bound(table: OrderedDict[Any, Any]) -> None:
    """Forget the oldest entry of a full table."""
    if len(table) > MAX_ENTRIES:
        table.popitem(last=False)
