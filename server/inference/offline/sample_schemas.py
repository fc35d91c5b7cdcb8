"""JSON schemas without references and choices: each alternative of a schema as one flat object."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote

MAX_STEPS = 4_000
"""Work for one value. A schema may have more alternatives than there is time."""

Schema = Mapping[str, Any]
Refs = tuple[str, ...]
_APART = frozenset({"$ref", "allOf", "anyOf", "oneOf", "if", "then", "else"})
_MERGED: dict[str, Callable[[Any, Any], Any]] = {
    **dict.fromkeys(("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties", "minContains"), max),
    **dict.fromkeys(("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"), min),
    "required": lambda one, other: [*dict.fromkeys([*one, *other])],
    "enum": lambda one, other: [value for value in one if value in other],
    **dict.fromkeys(("items", "contains", "propertyNames"), lambda one, other: {"allOf": [one, other]}),
}
"""How two values of a keyword become one that satisfies both. The first one is kept for other keywords."""


class Impossible(Exception):
    """No value was found that fits."""


class TooMuchWork(Exception):
    """The value would take more than `MAX_STEPS`."""


class Resolver:
    """Reads the schemas of one document. `is_brief`: the alternatives with the smallest values come first."""

    def __init__(self, document: Any, *, is_brief: bool = False) -> None:
        self._document = document
        self._is_brief = is_brief
        self._steps = 0

    def spend(self, steps: int = 1) -> None:
        """Raises `TooMuchWork` at the limit."""
        self._steps += steps
        if self._steps > MAX_STEPS:
            raise TooMuchWork

    def alternatives(self, schema: Any, refs: Refs) -> Iterator[tuple[Schema, Refs]]:
        """The flat alternatives, and the references that lead to the values inside them. Null is the last one.

        Inside itself a reference is followed once (if `is_brief`, never), so that values of recursive schemas end.
        """
        self.spend()
        if not isinstance(schema, dict):
            if schema is not False:
                yield {}, refs
            return
        own = {name: value for name, value in schema.items() if name not in _APART}
        if "const" in own:
            own = merge(own, {"enum": [own.pop("const")]})
        found: Iterator[tuple[Schema, Refs]] = iter([(own, refs)])
        for options in self._groups(schema, refs):
            found = self._with_each(found, options, refs)
        yield from found

    def _groups(self, schema: Schema, refs: Refs) -> Iterator[list[tuple[Any, Refs]]]:
        """Lists of schemas: a value must fit one of each list."""
        if isinstance(reference := schema.get("$ref"), str):
            may_follow = refs.count(reference) < (1 if self._is_brief else 2)
            yield [(self._find(reference), (*refs, reference))] if may_follow else []
        for part in _list_of(schema, "allOf"):
            yield [(part, refs)]
        for name in ("anyOf", "oneOf"):
            if options := _list_of(schema, name):
                required = set(schema.get("required") or ())
                yield [(_alone(option, options, required), refs) for option in self._in_order(options)]
        if "if" in schema:
            when, then = schema["if"], schema.get("then", True)
            yield [({"allOf": [when, then]}, refs), (schema.get("else", True), refs)]

    def _with_each(
        self, found: Iterator[tuple[Schema, Refs]], options: list[tuple[Any, Refs]], refs: Refs
    ) -> Iterator[tuple[Schema, Refs]]:
        for flat, around in found:
            for option, inside in options:
                for other, more in self.alternatives(option, inside):
                    try:
                        yield merge(flat, other), _joined(around, more, len(refs))
                    except Impossible:
                        continue

    def _in_order(self, options: list[Any]) -> list[Any]:
        return sorted(options, key=_is_null, reverse=self._is_brief)

    def _find(self, reference: str) -> Any:
        """The schema at a JSON pointer; anything fits where there is none."""
        found = self._document
        for part in reference.partition("#")[2].split("/")[1:]:
            name = unquote(part).replace("~1", "/").replace("~0", "~")
            if isinstance(found, list) and name.isdecimal() and int(name) < len(found):
                found = found[int(name)]
            elif isinstance(found, dict) and name in found:
                found = found[name]
            else:
                return True
        return found


def _joined(around: Refs, more: Refs, common: int) -> Refs:
    """The references of two parts of one schema, each once; the first `common` are the same in both."""
    return (*around, *(reference for reference in more[common:] if reference not in around[common:]))


def merge(one: Schema, other: Schema) -> dict[str, Any]:
    """A flat schema for values that fit both. Raises `Impossible` where that is plain to see."""
    merged = {**other, **one}
    for name in one.keys() & other.keys():
        if name in _MERGED:
            merged[name] = _MERGED[name](one[name], other[name])
    if "type" in one and "type" in other:
        merged["type"] = _common_types(types_of(one), types_of(other))
    if "properties" in merged:
        merged["properties"] = _properties(one, other)
    if False in (one.get("additionalProperties"), other.get("additionalProperties")):
        merged["additionalProperties"] = False
    if merged.get("enum") == [] or merged.get("type") == []:
        raise Impossible
    return merged


def types_of(schema: Schema) -> list[str]:
    """The types of a flat schema; empty for any."""
    types = schema.get("type")
    return [types] if isinstance(types, str) else list(types or ())


def _properties(one: Schema, other: Schema) -> dict[str, Any]:
    first, second = one.get("properties") or {}, other.get("properties") or {}
    both: dict[str, Any] = {**first, **second}
    for name in first.keys() & second.keys():
        both[name] = {"allOf": [first[name], second[name]]}
    for schema, known in ((one, first), (other, second)):
        if schema.get("additionalProperties") is False:
            both = {name: value for name, value in both.items() if name in known}
    return both


def _common_types(one: list[str], other: list[str]) -> list[str]:
    common = [name for name in one if name in other]
    if "integer" not in common and {"integer", "number"} <= {*one, *other}:
        common.append("integer")
    return common


def _list_of(schema: Schema, name: str) -> list[Any]:
    options = schema.get(name)
    return options if isinstance(options, list) else []


def _alone(option: Any, options: list[Any], required: set[str]) -> Any:
    """`option` without the properties that others require: they distinguish the options from each other."""
    if not isinstance(option, dict):
        return option
    others = {name for other in options if isinstance(other, dict) for name in other.get("required") or ()}
    barred = others - required - {*(option.get("required") or ())}
    return {"allOf": [option, {"properties": dict.fromkeys(sorted(barred), False)}]} if barred else option


def _is_null(schema: Any) -> bool:
    return isinstance(schema, dict) and (schema.get("type") == "null" or schema.get("const", 0) is None)
