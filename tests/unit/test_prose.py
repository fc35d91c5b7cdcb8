"""Plain English: the pages, and the comments and strings of the code, hold none of the words that make a riddle."""

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLACES = ("server", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "docs")
"""Files, and folders with all that is below them."""
SUFFIXES = {".md", ".py", ".js", ".html", ".css"}

_WORDS = re.compile(r"\b(?:beside|anew|nobody|heeds|is\s+told|stands\s+for)\b", re.IGNORECASE)
_OPENINGS = re.compile(r"\b(?:Who|What|Whoever|Of\s+an?)\b(?![^.!?]*\?)")
"""A capital opens a sentence. A sentence that ends in a question mark may ask."""
_CODE = re.compile(r"^ *```.*?^ *```|`[^`\n]*`|^#{1,6} .*?$|\]\([^)\s]*\)", re.DOTALL | re.MULTILINE)
"""What is no prose in Markdown: blocks of code, names in backticks, headings, and addresses of links."""
_STRINGS = {tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}

Passage = tuple[int, str]
"""A piece of prose, and the number of its first line."""


def blanked(match: re.Match[str]) -> str:
    """Nothing of the match but its line breaks, so that lines keep their numbers."""
    return re.sub(r"[^\n]", " ", match[0])


def passages_of_python(source: str) -> Iterator[Passage]:
    """Every string, and every run of comments that stand on lines of their own or at the end of one."""
    comment: Passage | None = None
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        line = token.start[0]
        if token.type == tokenize.COMMENT:
            text = token.string.lstrip("#")
            follows = comment is not None and comment[0] + comment[1].count("\n") + 1 == line
            if comment is not None and not follows:
                yield comment
            comment = (comment[0], f"{comment[1]}\n{text}") if comment is not None and follows else (line, text)
        elif token.type in _STRINGS:
            yield line, token.string
    if comment is not None:
        yield comment


def passages(path: Path) -> Iterator[Passage]:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        yield from passages_of_python(text)
    else:
        yield 1, text


def findings(text: str, *, first_line: int = 1) -> list[tuple[int, str]]:
    """The marker words of a passage: line and word."""
    prose = _CODE.sub(blanked, text)
    return sorted(
        (first_line + prose.count("\n", 0, match.start()), " ".join(match[0].split()))
        for pattern in (_WORDS, _OPENINGS)
        for match in pattern.finditer(prose)
    )


def files() -> list[Path]:
    found = [path for place in PLACES for path in [ROOT / place, *sorted((ROOT / place).rglob("*"))]]
    return [path for path in found if path.is_file() and path.suffix in SUFFIXES]


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_prose_is_plain(path: Path) -> None:
    name = path.relative_to(ROOT)
    hits = [
        f"{name}:{line}: {word!r}"
        for first_line, text in passages(path)
        for line, word in findings(text, first_line=first_line)
    ]
    assert hits == [], "\n".join(["Say it in plain English (CONTRIBUTING.md), without:", *hits])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("It runs beside the server.", ["beside"]),
        ("The client is\ntold of it, and nobody\nelse.", ["is told", "nobody"]),
        ("Fine. What is lost is repaired.", ["What"]),
        ("**Who may call**: the owner.", ["Who"]),
        ("- Of a file it keeps the type.", ["Of a"]),
        ("Whoever comes second waits.", ["Whoever"]),
        ("What is the capital of France?", []),
        ("`beside` and `nobody` are names; besides, a renewed lease.", []),
        ("# What to touch\n\nSee [the list](architecture.md#nobody).", []),
        ("```sh\necho nobody\n```\nheeds", ["heeds"]),
    ],
)
def test_marker_words_are_found(text: str, words: list[str]) -> None:
    assert [word for _, word in findings(text)] == words


def test_in_python_only_comments_and_strings_are_prose() -> None:
    source = 'nobody = 1  # anew\n"""One.\n\nWhat two."""\n# it is\n# told\nbeside = f"stands for {x}"\n'
    found = [hit for line, text in passages_of_python(source) for hit in findings(text, first_line=line)]
    assert sorted(found) == [(1, "anew"), (4, "What"), (5, "is told"), (7, "stands for")]
