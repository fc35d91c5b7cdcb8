"""Makes a value that fits a JSON schema. Free texts in it say that it is not AI."""

import math
from collections.abc import Mapping
from contextlib import suppress
from fractions import Fraction
from typing import Any

from server.inference.offline.sample_files import NOTE
from server.inference.offline.sample_patterns import UnknownPattern, text_for
from server.inference.offline.sample_schemas import Impossible, Refs, Resolver, Schema, TooMuchWork, types_of

_MAX_DEPTH = 8
"""Deeper objects get their required properties only."""
_MAX_EXTRA = 500
_SHORT_NOTE = "offline"
_FORMATS = {
    "date-time": "2000-01-01T00:00:00Z",
    "date": "2000-01-01",
    "time": "00:00:00Z",
    "duration": "PT1S",
    "email": "offline{n}@example.com",
    "idn-email": "offline{n}@example.com",
    "hostname": "offline{n}.example.com",
    "idn-hostname": "offline{n}.example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/offline{n}",
    "url": "https://example.com/offline{n}",
    "iri": "https://example.com/offline{n}",
    "uri-reference": "https://example.com/offline{n}",
    "iri-reference": "https://example.com/offline{n}",
    "uri-template": "https://example.com/offline{n}",
    "uuid": "00000000-0000-4000-8000-{n:0>12}",
    "json-pointer": "/offline{n}",
    "relative-json-pointer": "0/offline{n}",
    "regex": "offline{n}",
    "byte": "b2ZmbGluZQ==",
    "base64": "b2ZmbGluZQ==",
    "base64url": "b2ZmbGluZQ==",
}
_HINTS = {
    "object": ("properties", "required", "additionalProperties", "patternProperties", "minProperties"),
    "array": ("items", "prefixItems", "contains", "minItems", "uniqueItems"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}
"""Keywords that show the type of a schema that names none."""
_CHOICES: dict[str, list[Any]] = {"boolean": [False, True], "null": [None]}
_Bound = tuple[Fraction, bool]
"""A number, and whether it is excluded itself."""
_KINDS: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "boolean": (bool,),
    "integer": (int, float),
    "number": (int, float),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}


def make_value(schema: Any, *, text: str = NOTE) -> Any:
    """A value that fits `schema`, with `text` in its free strings. Raises `Impossible`.

    Optional properties that have a type are part of it, unless there are too many. `not`, dependent schemas, and
    lookarounds of patterns are mostly ignored.
    """
    try:
        try:
            return _Maker(schema, text, is_brief=False).make(schema, ())
        except TooMuchWork:
            return _Maker(schema, text, is_brief=True).make(schema, ())
    except (TooMuchWork, TypeError, ValueError, KeyError, AttributeError, OverflowError, RecursionError):
        raise Impossible from None  # too large, or not a JSON schema


class _Maker:
    def __init__(self, document: Any, text: str, *, is_brief: bool) -> None:
        self._resolver = Resolver(document, is_brief=is_brief)
        self._is_brief = is_brief
        self._texts = (text, NOTE, _SHORT_NOTE)

    def make(self, schema: Any, refs: Refs, *, depth: int = 0, number: int = 0) -> Any:
        """A value of the first alternative that has one. Another `number` gives another value, if there is one."""
        for flat, inside in self._resolver.alternatives(schema, refs):
            for kind in _kinds_of(flat):
                try:
                    return self._make(flat, kind, inside, depth, number)
                except Impossible:
                    continue
        raise Impossible

    def _make(self, flat: Schema, kind: str, refs: Refs, depth: int, number: int) -> Any:
        if flat.get("not") in ({}, True):
            raise Impossible
        if (options := flat.get("enum", _CHOICES.get(kind))) is not None:
            return _chosen(options, types_of(flat), number)
        match kind:
            case "object":
                return self._object(flat, refs, depth, number)
            case "array":
                return self._array(flat, refs, depth, number)
            case "string":
                return self._string(flat, number)
            case "integer" | "number":
                return _number(flat, number, is_whole=kind == "integer")
        raise Impossible

    def _object(self, flat: Schema, refs: Refs, depth: int, number: int) -> dict[str, Any]:
        properties: Mapping[str, Any] = flat.get("properties") or {}
        required = flat.get("required") or []
        others = flat.get("additionalProperties", True)
        most = flat.get("maxProperties", math.inf)
        made: dict[str, Any] = {}
        for name in [*properties, *(name for name in required if name not in properties)]:
            is_left_out = self._is_brief or depth > _MAX_DEPTH or len(made) + len(required) >= most
            if (is_left_out or properties.get(name) in ({}, True)) and name not in required:
                continue
            try:
                made[name] = self.make(properties.get(name, others), refs, depth=depth + 1, number=number)
            except Impossible:
                if name in required:
                    raise
        least = flat.get("minProperties", 0)
        if not properties and others is not False and most:
            least = max(least, int(isinstance(others, dict) and depth <= _MAX_DEPTH and not self._is_brief))
        self._add_others(made, flat, refs, depth=depth, least=least)
        return made

    def _add_others(self, made: dict[str, Any], flat: Schema, refs: Refs, *, depth: int, least: int) -> None:
        """Add properties without a name in the schema, until there are `least`."""
        patterns: Mapping[str, Any] = flat.get("patternProperties") or {}
        pattern = next(iter(patterns), None)
        names, values = flat.get("propertyNames", True), flat.get("additionalProperties", True)
        if pattern is not None:
            names, values = {"pattern": pattern}, patterns[pattern]
        must = flat.get("minProperties", 0)
        for number in range(least):
            if len(made) >= least:
                return
            try:
                name = _SHORT_NOTE + (str(number or "")) if names is True else None
                name = name or self.make({"type": "string", "allOf": [names]}, refs, number=number)
                made[name] = self.make(values, refs, depth=depth + 1, number=number)
            except Impossible:
                break
        if len(made) < must:
            raise Impossible

    def _array(self, flat: Schema, refs: Refs, depth: int, number: int) -> list[Any]:
        items, first = flat.get("items", True), flat.get("prefixItems") or []
        if isinstance(items, list):  # until draft 2019-09
            items, first = flat.get("additionalItems", True), items
        contained = [flat["contains"]] * flat.get("minContains", 1) if "contains" in flat else []
        least, most = flat.get("minItems", 0), flat.get("maxItems", math.inf)
        wanted = [*first, *({"allOf": [items, part]} for part in contained)]
        count = max(least, len(wanted) or int(not self._is_brief))
        self._resolver.spend(count)
        made: list[Any] = []
        for at, schema in enumerate([*wanted, *[items] * (count - len(wanted))]):
            if at >= most:
                break
            try:
                made.append(self.make(schema, refs, depth=depth + 1, number=number + at))
            except Impossible:
                if at < max(least, len(contained)):
                    raise
                break
        return made

    def _string(self, flat: Schema, number: int) -> str:
        least, most = int(flat.get("minLength", 0)), flat.get("maxLength", math.inf)
        self._resolver.spend(least // 10)
        form = _FORMATS.get(flat.get("format", ""))
        if form is not None:
            return form.format(n=number or ("0" if "{n:" in form else ""))
        if "pattern" in flat:
            return _text_for(flat["pattern"], least, most, number)
        tail = f" {number}" if number else ""
        text = next((text + tail for text in self._texts if len(text + tail) <= most), None)
        if text is None:
            text = (tail.strip() + _SHORT_NOTE)[: int(most)]
        return text + "." * (least - len(text))


def _kinds_of(flat: Schema) -> list[str]:
    if types := types_of(flat):
        return sorted(types, key=lambda kind: kind == "null")
    return [next((kind for kind, hints in _HINTS.items() if not flat.keys().isdisjoint(hints)), "string")]


def _chosen(options: list[Any], kinds: list[str], number: int) -> Any:
    """One of the options; null is the last."""
    fitting = [value for value in options if not kinds or any(_is_of(value, kind) for kind in kinds)]
    if not fitting:
        raise Impossible
    return sorted(fitting, key=lambda value: value is None)[number % len(fitting)]


def _is_of(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _KINDS.get(kind, ()))


def _number(flat: Schema, number: int, *, is_whole: bool) -> float:
    """The number nearest to 0 within the bounds, or the `number`-th after it. A whole multiple is preferred."""
    if "multipleOf" in flat and not is_whole:
        with suppress(Impossible):  # 0.3 is no multiple of 0.1 for many validators
            return _number(flat, number, is_whole=True)
    low, high = _bound(flat, "minimum", "exclusiveMinimum"), _bound(flat, "maximum", "exclusiveMaximum", sign=-1)
    step = Fraction(str(flat.get("multipleOf", 1)))
    is_free = "multipleOf" not in flat and not is_whole
    if is_whole:
        step *= step.denominator
    elif is_free and low is not None and high is not None:
        step = min(step, (high[0] - low[0]) / 4)
    found = Fraction(0)
    if low is not None and not _is_above(found, low):
        found = _first_above(low, step, is_free=is_free)
    elif high is not None and not _is_above(-found, (-high[0], high[1])):
        found = -_first_above((-high[0], high[1]), step, is_free=is_free)
    fitting = [one for one in (found + number * step, found) if _is_within(one, low, high)]
    if not fitting:
        raise Impossible
    return int(fitting[0]) if fitting[0].denominator == 1 else float(fitting[0])


def _bound(flat: Schema, name: str, exclusive: str, *, sign: int = 1) -> _Bound | None:
    """The narrower one of both bounds. In draft 4 the exclusive one is a flag."""
    bounds = [(Fraction(str(flat[name])), flat.get(exclusive) is True)] if name in flat else []
    if exclusive in flat and not isinstance(flat[exclusive], bool):
        bounds.append((Fraction(str(flat[exclusive])), True))
    return max(bounds, key=lambda bound: (sign * bound[0], bound[1]), default=None)


def _is_above(value: Fraction, bound: _Bound) -> bool:
    return value > bound[0] if bound[1] else value >= bound[0]


def _is_within(value: Fraction, low: _Bound | None, high: _Bound | None) -> bool:
    return (low is None or _is_above(value, low)) and (high is None or _is_above(-value, (-high[0], high[1])))


def _first_above(bound: _Bound, step: Fraction, *, is_free: bool) -> Fraction:
    """The bound or, where it is exclusive or not a multiple of `step`, the next number."""
    found = bound[0] if is_free else -(-bound[0] // step) * step
    return found if _is_above(found, bound) else found + step


def _text_for(pattern: str, least: int, most: float, number: int) -> str:
    """A text for the pattern, with more of what it repeats until it is long enough."""
    first = number + ("(?!" in pattern)
    for extra in range(first, first + min(least, _MAX_EXTRA) + 1):
        try:
            text = text_for(pattern, extra=extra)
        except UnknownPattern:
            raise Impossible from None
        if len(text) >= least:
            return text if len(text) <= most else text_for(pattern)
    raise Impossible
