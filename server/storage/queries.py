"""Loads the SQL statements of this program by name, from the files under `sql/queries`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType

_HEADER = re.compile(r"--\s*(?P<kind>name|columns|clauses):\s*(?P<name>.*?)\s*")
_COLUMNS = re.compile(r"@(\w+)")
_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)+")


class BadQueryFile(Exception):
    """A query file breaks the rules: the message names the file, the line and the rule."""


def sql_directory() -> Path:
    """The `sql` folder, which has the same parent folder as the `server` package in a checkout and in a wheel."""
    return Path(__file__).parents[2] / "sql"


@cache
def statements() -> Mapping[str, str]:
    """The statements of this program by name, read once per process."""
    return load_queries(sql_directory() / "queries")


def load_queries(directory: Path) -> Mapping[str, str]:
    """Every statement of every `*.sql` file of a folder by name, without its header and comment.

    A statement begins with `-- name: verb_object`, then at least one comment line with its purpose, then one statement.
    A list of columns that several statements share begins with `-- columns: noun_plural`, any other part of a statement
    with `-- clauses: noun_plural`; `@noun_plural` inserts it.
    Raises `BadQueryFile` for a statement without a name or purpose, an empty one, two of one name, a list that does not
    exist, or an empty folder.
    """
    texts: dict[str, str] = {}
    blocks = [block for path in sorted(directory.glob("*.sql")) for block in _parse(path)]
    columns = {block.name: block.statement() for block in blocks if block.kind != "name"}
    for block in blocks:
        if block.kind == "name":
            if block.name in texts:
                raise BadQueryFile(f"{block.place}: the name {block.name!r} is taken by another query.")
            texts[block.name] = _insert_columns(block, columns)
    if not texts:
        raise BadQueryFile(f"{directory}: no query found. Is the sql folder installed with the server package?")
    return MappingProxyType(texts)


def _insert_columns(block: "_Block", columns: Mapping[str, str]) -> str:
    try:
        return _COLUMNS.sub(lambda use: columns[use[1]], block.statement())
    except KeyError as error:
        raise BadQueryFile(
            f"{block.place}: {block.name!r} uses @{error.args[0]}, which is no shared part of a statement."
        ) from None


@dataclass(frozen=True, slots=True)
class _Block:
    """The lines of the file under one header."""

    kind: str
    name: str
    place: str
    lines: list[str]

    def statement(self) -> str:
        """The text without the comments before it and without the final semicolon."""
        body = [line for line in self.lines if line.strip()]
        purpose = next((number for number, line in enumerate(body) if not line.startswith("--")), len(body))
        if purpose == 0:
            raise BadQueryFile(f"{self.place}: {self.name!r} needs a comment line that says what it is for.")
        text = "\n".join(body[purpose:]).strip()
        if not text:
            raise BadQueryFile(f"{self.place}: {self.name!r} has no statement.")
        if any(line.rstrip().endswith(";") for line in body[purpose:-1]):
            raise BadQueryFile(f"{self.place}: a second statement follows {self.name!r}; give it a name of its own.")
        return text.removesuffix(";")


def _parse(path: Path) -> list[_Block]:
    """Split a file at its headers. Only comments are allowed before the first one."""
    blocks: list[_Block] = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        place = f"{path.name}:{number}"
        if header := _HEADER.fullmatch(line):
            if not _NAME.fullmatch(header["name"]):
                raise BadQueryFile(f"{place}: {header['name']!r} is not a name such as claim_pending.")
            blocks.append(_Block(header["kind"], header["name"], place, []))
        elif blocks:
            blocks[-1].lines.append(line)
        elif line.strip() and not line.startswith("--"):
            raise BadQueryFile(f"{place}: a statement without a name; put '-- name: verb_object' above it.")
    return blocks
