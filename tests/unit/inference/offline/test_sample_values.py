"""Values of the test double for JSON schemas: each fits its schema, and says that it is not AI where it may."""

import json
import re
import time
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal
from uuid import UUID

import jsonschema  # type: ignore[import-untyped]
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.lib._parsing._completions import type_to_response_format_param
from pydantic import AnyUrl, BaseModel, ConfigDict, EmailStr, Field, TypeAdapter

from server.inference.offline.sample_files import NOTE
from server.inference.offline.sample_patterns import UnknownPattern, text_for
from server.inference.offline.sample_schemas import Impossible
from server.inference.offline.sample_values import make_value

NODE = {
    "type": "object",
    "properties": {
        "value": {"type": "integer"},
        "next": {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]},
        "children": {"type": "array", "items": {"$ref": "#/$defs/Node"}},
    },
    "required": ["value", "next", "children"],
    "additionalProperties": False,
}
BASE = {"type": "object", "properties": {"id": {"type": "string", "format": "uuid"}}, "required": ["id"]}

SCHEMAS: dict[str, Any] = {
    "object": {
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer"}, "is_new": {"type": "boolean"}},
        "required": ["name", "age", "is_new"],
        "additionalProperties": False,
    },
    "required without properties": {"type": "object", "required": ["a", "b"]},
    "required among additional": {"required": ["a"], "additionalProperties": {"type": "integer"}},
    "enum": {"enum": ["red", "green"]},
    "enum of a type": {"type": "integer", "enum": [None, "one", True, 1.5, 2]},
    "enum with null": {"type": ["string", "null"], "enum": [None, "a"]},
    "const": {"const": {"a": [1]}},
    "const null": {"const": None},
    "type null": {"type": "null"},
    "types": {"type": ["null", "integer"]},
    "nullable": {"type": "string", "nullable": True},
    "minimum": {"type": "integer", "minimum": 18, "maximum": 99},
    "negative": {"type": "integer", "maximum": -5},
    "exclusive": {"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 2},
    "between": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
    "below zero": {"type": "number", "exclusiveMaximum": 0},
    "one number": {"type": "number", "minimum": 0.5, "maximum": 0.5},
    "both bounds": {"type": "number", "minimum": 1, "exclusiveMinimum": 1, "maximum": 2, "exclusiveMaximum": 9},
    "multiple": {"type": "integer", "multipleOf": 7, "minimum": 30},
    "multiple below": {"type": "integer", "multipleOf": 7, "exclusiveMaximum": -7},
    "decimal multiple": {"type": "number", "multipleOf": 0.1, "minimum": 0.25},
    "quarter": {"type": "number", "multipleOf": 0.25, "exclusiveMinimum": 0, "maximum": 0.5},
    "max length": {"type": "string", "maxLength": 5},
    "min length": {"type": "string", "minLength": 100},
    "length 1": {"type": "string", "minLength": 1, "maxLength": 1},
    "empty string": {"type": "string", "maxLength": 0},
    "pattern": {"type": "string", "pattern": r"^[A-Z]{2}-\d{4}$"},
    "long pattern": {"type": "string", "pattern": "^[a-z]+$", "minLength": 50},
    **{
        f"format {name}": {"type": "string", "format": name}
        for name in ("date", "time", "date-time", "email", "uuid", "ipv4", "ipv6", "regex", "idn-email", "unknown")
    },
    "array": {"type": "array", "items": {"type": "string"}},
    "min items": {"type": "array", "items": {"type": "integer"}, "minItems": 3, "maxItems": 4},
    "no items": {"type": "array", "items": {"type": "integer"}, "maxItems": 0},
    "impossible items": {"type": "array", "items": False},
    "unique strings": {"type": "array", "items": {"type": "string"}, "minItems": 3, "uniqueItems": True},
    "unique short strings": {
        "type": "array",
        "items": {"type": "string", "minLength": 2, "maxLength": 3},
        "minItems": 3,
        "uniqueItems": True,
    },
    "unique numbers": {"type": "array", "items": {"type": "integer", "minimum": 5}, "minItems": 3, "uniqueItems": True},
    "unique booleans": {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "uniqueItems": True},
    "unique enums": {"type": "array", "items": {"enum": ["a", "b", "c"]}, "minItems": 3, "uniqueItems": True},
    "unique ids": {"type": "array", "items": {"format": "uuid"}, "minItems": 2, "uniqueItems": True},
    "unique matches": {"type": "array", "items": {"pattern": "^a+$"}, "minItems": 2, "uniqueItems": True},
    "unique objects": {"type": "array", "items": BASE, "minItems": 2, "uniqueItems": True},
    "tuple": {"type": "array", "prefixItems": [{"type": "integer"}, {"format": "date"}], "items": False, "minItems": 2},
    "contains": {"type": "array", "contains": {"const": 5}, "minContains": 2},
    "ref": {"$ref": "#/$defs/Base", "$defs": {"Base": BASE}},
    "ref with siblings": {"$ref": "#/definitions/a~1b%25", "description": "x", "definitions": {"a/b%": BASE}},
    "ref into items": {"type": "array", "prefixItems": [{"const": 1}, {"$ref": "#/prefixItems/0"}], "minItems": 2},
    "ref to a ref": {"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/B"}, "B": {"type": "integer"}}},
    "recursive": {"$ref": "#/$defs/Node", "$defs": {"Node": NODE}},
    "recursive root": {
        "type": "object",
        "properties": {"children": {"type": "array", "items": {"$ref": "#"}}, "parent": {"$ref": "#"}},
        "required": ["children"],
    },
    "any of": {"anyOf": [{"type": "null"}, {"type": "integer", "minimum": 5}]},
    "any of with base": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "anyOf": [{"required": ["a"]}, {"required": ["b"]}],
    },
    "one of by required": {
        "type": "object",
        "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
        "oneOf": [{"required": ["a"]}, {"required": ["b"]}],
    },
    "one of by const": {
        "oneOf": [
            {"properties": {"kind": {"const": "a"}, "x": {"type": "integer"}}, "required": ["kind", "x"]},
            {"properties": {"kind": {"const": "b"}, "y": {"type": "integer"}}, "required": ["kind", "y"]},
        ]
    },
    "first option is impossible": {"anyOf": [False, {"allOf": [{"type": "string"}, {"type": "null"}]}, {"const": 1}]},
    "all of": {
        "allOf": [
            {"type": "object", "properties": {"a": {"type": "number", "minimum": 3}}, "required": ["a"]},
            {"properties": {"a": {"type": "integer", "maximum": 5}, "b": {"enum": ["x", "y"]}}, "required": ["b"]},
            {"properties": {"b": {"enum": ["y", "z"]}}},
        ]
    },
    "all of, closed": {
        "allOf": [
            {"properties": {"a": {"const": 1}}, "required": ["a"], "additionalProperties": False},
            {"properties": {"a": {"type": "integer"}, "b": {"const": 2}}},
        ]
    },
    "twice the same base": {
        "allOf": [
            {"$ref": "#/$defs/Base"},
            {"$ref": "#/$defs/Base"},
            {"properties": {"other": {"$ref": "#/$defs/Base"}}, "required": ["other"]},
        ],
        "$defs": {"Base": BASE},
    },
    "map": {"type": "object", "additionalProperties": {"type": "integer"}},
    "map of two": {"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 2},
    "map with names": {"propertyNames": {"enum": ["x", "y"]}, "additionalProperties": {"type": "number"}},
    "names by pattern": {
        "type": "object",
        "patternProperties": {"^S_[a-z]+$": {"type": "integer"}},
        "additionalProperties": False,
        "minProperties": 2,
    },
    "max properties": {
        "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
        "maxProperties": 1,
        "required": ["b"],
    },
    "if then": {
        "type": "object",
        "properties": {"kind": {"enum": ["a", "b"]}, "z": {"type": "integer"}},
        "if": {"properties": {"kind": {"const": "b"}}, "required": ["kind"]},
        "then": {"required": ["z"]},
    },
    "never": {"type": "object", "properties": {"never": {"not": {}}, "text": {"type": "string"}}},
    "no type": {"minimum": 4},
    "anything": {},
    "true": True,
}


def check(schema: Any) -> Any:
    value = json.loads(json.dumps(make_value(schema)))
    jsonschema.validate(value, schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)
    return value


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_value_fits_its_schema(name: str) -> None:
    check(SCHEMAS[name])


def test_free_texts_say_that_they_are_not_ai() -> None:
    assert check(SCHEMAS["object"]) == {"name": NOTE, "age": 0, "is_new": False}
    assert "offline" in NOTE.lower()
    for name in ("array", "map of two", "format email", "format unknown", "anything"):
        assert "offline" in json.dumps(check(SCHEMAS[name])).lower()
    assert check(SCHEMAS["max length"]) == "offli"


def test_optional_properties_are_part_of_the_value() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "array", "items": {"const": 1}}}}
    assert check(schema) == {"a": NOTE, "b": [1]}
    assert check({"type": "object", "properties": {"a": {}, "b": True}}) == {}


def test_a_recursive_value_shows_one_level_and_ends() -> None:
    leaf: Any = {"value": 0, "next": None, "children": []}
    assert check(SCHEMAS["recursive"]) == {"value": 0, "next": leaf, "children": [leaf]}


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: Annotated[int, Field(ge=1, le=9)]


class Dog(BaseModel):
    kind: Literal["dog"]
    name: str


class Tree(BaseModel):
    label: str
    branches: "list[Tree]"
    parent: "Tree | None"


class Step(BaseModel):
    explanation: str
    output: str


class Maths(BaseModel):
    steps: list[Step]
    final_answer: str


class Everything(BaseModel):
    text: Annotated[str, Field(min_length=3, max_length=40)]
    colour: Colour
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]
    tree: Tree
    maybe: int | None
    either: int | str
    born: date
    seen: datetime
    id: UUID
    mail: EmailStr
    home: AnyUrl
    share: Annotated[float, Field(gt=0, lt=1)]
    price: Decimal
    tags: Annotated[set[str], Field(min_length=2)]
    pair: tuple[int, str]
    counts: dict[str, int]
    code: Annotated[str, Field(pattern=r"^[A-Z]{3}\d{2,4}$")]
    took: timedelta
    flag: bool
    choice: Literal["a", 1] | None
    anything: Any


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    notes: list[str] = []


@pytest.mark.parametrize("shape", [Maths, Everything, Closed, Tree, Cat, Dog])
def test_pydantic_takes_the_value_of_its_own_schema(shape: type[BaseModel]) -> None:
    shape.model_validate_json(json.dumps(make_value(shape.model_json_schema())))


@pytest.mark.parametrize("shape", [list[int], dict[str, Step], Step | None, Literal["x"], tuple[int, ...], set[Colour]])
def test_pydantic_takes_the_value_of_another_type(shape: Any) -> None:
    adapter = TypeAdapter(shape)
    adapter.validate_json(json.dumps(make_value(adapter.json_schema())))


@pytest.mark.parametrize("shape", [Maths, Closed, Tree, Cat, Dog])
def test_the_schemas_that_the_openai_package_makes_are_met(shape: type[BaseModel]) -> None:
    response_format: Any = type_to_response_format_param(shape)
    shape.model_validate(check(response_format["json_schema"]["schema"]))
    tool: Any = openai.pydantic_function_tool(shape)
    shape.model_validate(check(tool["function"]["parameters"]))


def _schemas() -> st.SearchStrategy[dict[str, Any]]:
    bounds = st.tuples(st.integers(-50, 50), st.integers(0, 50))
    leaves = st.one_of(
        st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"type": "string", "format": "date"}, {"const": "x"}]),
        st.builds(lambda one: {"type": "string", "minLength": one[1], "maxLength": one[1] + abs(one[0])}, bounds),
        st.builds(lambda one: {"type": "integer", "minimum": one[0], "maximum": one[0] + one[1]}, bounds),
        st.builds(
            lambda one: {"type": "number", "exclusiveMinimum": one[0], "exclusiveMaximum": one[0] + one[1] + 0.5},
            bounds,
        ),
        st.builds(lambda values: {"enum": values}, st.lists(st.integers() | st.text(max_size=5), min_size=1)),
    )

    def nest(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        names = st.sampled_from("abcdef")
        objects = st.builds(
            lambda properties, required, is_open: {
                "type": "object",
                "properties": properties,
                "required": [name for name in required if is_open or name in properties],
                "additionalProperties": is_open,
            },
            st.dictionaries(names, inner, max_size=4),
            st.lists(names, unique=True, max_size=3),
            st.booleans(),
        )
        arrays = st.builds(
            lambda items, least: {"type": "array", "items": items, "minItems": least}, inner, st.integers(0, 3)
        )
        choices = st.builds(lambda options: {"anyOf": options}, st.lists(inner, min_size=1, max_size=3))
        both = st.builds(lambda one: {"allOf": [one, one]}, inner)
        return objects | arrays | choices | both

    return st.recursive(leaves, nest, max_leaves=12)


@given(_schemas())
def test_any_consistent_schema_is_met(schema: dict[str, Any]) -> None:
    check(schema)


@pytest.mark.parametrize(
    "schema",
    [
        False,
        {"type": "string", "enum": [1]},
        {"type": "integer", "minimum": 3, "maximum": 2},
        {"allOf": [{"type": "string"}, {"type": "object"}]},
        {"$ref": "#/$defs/Self", "$defs": {"Self": {"$ref": "#/$defs/Self"}}},
        {"type": "object", "properties": {"self": {"$ref": "#"}}, "required": ["self"]},
        {"type": "array", "minItems": 10**9},
        {"type": "string", "minLength": 10**9},
        {"type": "integer", "minimum": "many"},
        {"type": "object", "properties": 5},
        {"type": "string", "pattern": "("},
    ],
)
def test_a_schema_without_a_value_within_the_limits_is_refused(schema: Any) -> None:
    with pytest.raises(Impossible):
        make_value(schema)


@pytest.mark.parametrize("is_required", [False, True])
def test_a_schema_with_more_alternatives_than_there_is_time_takes_little(is_required: bool) -> None:  # noqa: FBT001
    names = [f"D{number}" for number in range(30)]
    properties = {name: {"anyOf": [{"$ref": f"#/$defs/{name}"}, {"type": "null"}]} for name in names}
    each = {"type": "object", "properties": properties, "required": names if is_required else []}
    started = time.process_time()
    check({"$ref": "#/$defs/D0", "$defs": dict.fromkeys(names, each)})
    assert time.process_time() - started < 3


@pytest.mark.parametrize(
    "pattern",
    [
        r"^[a-z]+$",
        r"^\d{3}-\d{4}$",
        r"^(foo|bar)[0-9]{2,}$",
        r"^#(?:[0-9a-fA-F]{3}){1,2}$",
        r"^\+?[1-9]\d{1,14}$",
        r"^[^@\s]+@[^@\s]+\.[a-z]{2,}$",
        r"^(?P<year>\d{4})/(\d\d)$",
        r"^(\w)\1$",
        r"^[-a]+[a-]$",
        r"^[\]\\^]$",
        r"^[\u4e00-\u9fff]+$",
        r"^\$\{x\}\x41\t$",
        r"^[^a-z0-9A-Z]$",
        r"^\S+ \D\W$",
        r"^(?:a|b(?:c|d))*?e{2}$",
        r"^$",
        "unanchored.",
    ],
)
@pytest.mark.parametrize("extra", [0, 1, 3])
def test_a_text_matches_its_pattern(pattern: str, extra: int) -> None:
    assert re.search(pattern, text_for(pattern, extra=extra))


def test_classes_of_javascript_are_known() -> None:
    assert text_for(r"^\p{L}\u{41}(?<name>b)$") == "aAb"


@pytest.mark.parametrize("pattern", ["(", "[a", "a)", "\\", "(?=", "(" * 5000, "(a{9999}){99}"])
def test_an_unknown_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(UnknownPattern):
        text_for(pattern)
