"""Every query that the program names exists, and every query that exists is named."""

import ast
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import server
from server.actors.writes import NewRequest, ReleasedRow
from server.model_request import FinalRow
from server.storage.queries import statements

# Methods that take the name of a query as their first argument, or hand it on from wherever it stands.
_READERS = {"fetch", "fetch_row"}


def _modules() -> list[ast.Module]:
    folder = Path(server.__file__).parent
    return [ast.parse(path.read_text("utf-8")) for path in sorted(folder.rglob("*.py"))]


def _constant(node: ast.AST) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def _is_statements(node: ast.AST) -> bool:
    node = node.func if isinstance(node, ast.Call) else node
    name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
    return name == "statements"


def _looked_up(module: ast.Module) -> Iterator[str]:
    """`statements()["name"]`, and the argument of a method that looks up what it is given."""
    handing_on = dict(_handing_on(module))
    for node in ast.walk(module):
        if isinstance(node, ast.Subscript) and _is_statements(node.value) and (name := _constant(node.slice)):
            yield name
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            position = 0 if node.func.attr in _READERS else handing_on.get(node.func.attr)
            if position is not None and len(node.args) > position and (name := _constant(node.args[position])):
                yield name


def _handing_on(module: ast.Module) -> Iterator[tuple[str, int]]:
    """Methods that look up one of their parameters, or hand it to a reader; which parameter that is, without `self`."""
    for function in ast.walk(module):
        if not isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        parameters = [argument.arg for argument in function.args.args if argument.arg != "self"]
        for node in ast.walk(function):
            if isinstance(name := _looked_up_name(node), ast.Name) and name.id in parameters:
                yield function.name, parameters.index(name.id)


def _looked_up_name(node: ast.AST) -> ast.AST | None:
    """The expression for the name of a query in `node`; None if there is none."""
    if isinstance(node, ast.Subscript) and _is_statements(node.value):
        return node.slice
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _READERS:
        return node.args[0] if node.args else None
    return None


def test_every_name_in_the_code_is_a_query() -> None:
    named = {name for module in _modules() for name in _looked_up(module)}
    assert {"record_outcomes", "claim_pending", "limit_lock_wait", "get_request"} <= named  # the search finds all forms
    assert named - set(statements()) == set()


def test_every_query_is_named_in_the_code() -> None:
    texts = {text for module in _modules() for node in ast.walk(module) if (text := _constant(node))}
    assert set(statements()) - texts == set()


@pytest.mark.parametrize(
    ("query", "row"),
    [("accept_requests", NewRequest), ("record_outcomes", FinalRow), ("release_requests", ReleasedRow)],
)
def test_the_arrays_of_a_statement_are_the_fields_of_its_row(query: str, row: type[Any]) -> None:
    """The journal passes one array for each field, in the order of the fields."""
    columns = re.search(r"unnest\(.*?\)\s*AS \w+ \((.*?)\)", statements()[query], re.DOTALL)
    assert columns is not None
    assert [name.strip() for name in columns[1].split(",")] == [field.name for field in fields(row)]
