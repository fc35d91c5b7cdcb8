"""Every query that the program names exists, and every query that exists is named."""

import ast
from collections.abc import Iterator
from pathlib import Path

import server
from tests.rows import queries

# Methods that take the name of a query as their first argument, or hand it on from wherever it stands.
_READERS = {"fetch", "fetch_row"}


def _modules() -> list[ast.Module]:
    folder = Path(server.__file__).parent
    return [ast.parse(path.read_text("utf-8")) for path in sorted(folder.rglob("*.py"))]


def _constant(node: ast.AST) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def _is_queries(node: ast.AST) -> bool:
    node = node.func if isinstance(node, ast.Call) else node
    name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
    return name.endswith("queries")


def _looked_up(module: ast.Module) -> Iterator[str]:
    """`queries["name"]`, and the argument of a method that looks up what it is given."""
    handing_on = dict(_handing_on(module))
    for node in ast.walk(module):
        if isinstance(node, ast.Subscript) and _is_queries(node.value) and (name := _constant(node.slice)):
            yield name
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            position = 0 if node.func.attr in _READERS else handing_on.get(node.func.attr)
            if position is not None and len(node.args) > position and (name := _constant(node.args[position])):
                yield name


def _handing_on(module: ast.Module) -> Iterator[tuple[str, int]]:
    """Methods with `self._queries[parameter]` in them, and which parameter that is (without `self`)."""
    for function in ast.walk(module):
        if not isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        parameters = [argument.arg for argument in function.args.args if argument.arg != "self"]
        for node in ast.walk(function):
            if (
                isinstance(node, ast.Subscript)
                and _is_queries(node.value)
                and isinstance(node.slice, ast.Name)
                and node.slice.id in parameters
            ):
                yield function.name, parameters.index(node.slice.id)


def test_every_name_in_the_code_is_a_query() -> None:
    named = {name for module in _modules() for name in _looked_up(module)}
    assert {"record_outcomes", "claim_pending", "limit_lock_wait", "get_request"} <= named  # the search finds all forms
    assert named - set(queries()) == set()


def test_every_query_is_named_in_the_code() -> None:
    named = {name for module in _modules() for name in _looked_up(module)}
    assert set(queries()) - named == set()
