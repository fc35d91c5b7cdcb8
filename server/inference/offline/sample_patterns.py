"""Makes a text that a regular expression of a JSON schema matches, in most cases."""

import re
from collections.abc import Callable
from itertools import chain

MAX_TEXT = 10_000
_FAVOURITES = "a0A-_. :/@"
"""The first of them that a class of characters contains is used."""
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v", "0": "\0"}
_CLASSES: dict[str, Callable[[str], bool]] = {
    "d": lambda one: one in "0123456789",
    "D": lambda one: one not in "0123456789",
    "w": lambda one: one.isascii() and (one.isalnum() or one == "_"),
    "W": lambda one: not (one.isascii() and (one.isalnum() or one == "_")),
    "s": str.isspace,
    "S": lambda one: not one.isspace(),
    "p": str.isalpha,
    "P": lambda one: not one.isalpha(),
}
_GROUP = re.compile(r"\?(?::|P?<(?![=!])[^>]*>|[aimsux-]+:?)?")
_QUANTIFIER = re.compile(r"(?:[*+?]|\{(?P<low>\d{1,6})(?P<comma>,)?(?P<high>\d{1,6})?\})[?+]?")
_BOUNDS = {"*": (0, MAX_TEXT), "+": (1, MAX_TEXT), "?": (0, 1)}
_CODE = re.compile(r"u\{(?P<braced>[0-9a-fA-F]{1,6})\}|u(?P<four>[0-9a-fA-F]{4})|x(?P<two>[0-9a-fA-F]{2})")
_PROPERTY = re.compile(r"\{[^}]*\}")


class UnknownPattern(ValueError):
    """No text can be made for a pattern."""


def text_for(pattern: str, *, extra: int = 0) -> str:
    """A text for `pattern`, with `extra` more of everything that may be repeated. Lookarounds are ignored.

    The text is not matched against the pattern: a hostile one could take hours. Raises `UnknownPattern`.
    """
    maker = _Maker(pattern, extra)
    try:
        text = maker.alternatives()
    except (IndexError, RecursionError):
        raise UnknownPattern(pattern) from None
    if maker.place < len(pattern):
        raise UnknownPattern(pattern)
    return text


class _Maker:
    """Reads a pattern from left to right, and returns a text for each part that it reads."""

    def __init__(self, pattern: str, extra: int) -> None:
        self._pattern = pattern
        self._extra = extra
        self._groups: list[str] = []
        self.place = 0

    def alternatives(self) -> str:
        """The text of the first alternative."""
        first = self._sequence()
        while self._take("|"):
            self._sequence()
        return first

    def _sequence(self) -> str:
        pieces: list[str] = []
        size = 0
        while self.place < len(self._pattern) and self._pattern[self.place] not in "|)":
            piece = self._atom()
            count = self._count()
            size += len(piece) * count
            if size > MAX_TEXT:
                raise UnknownPattern(self._pattern)
            pieces.append(piece * count)
        return "".join(pieces)

    def _count(self) -> int:
        match = _QUANTIFIER.match(self._pattern, self.place)
        if match is None:
            return 1
        self.place = match.end()
        low, high = _BOUNDS.get(match[0][0], (0, 0))
        if match["low"]:
            low = int(match["low"])
            high = int(match["high"]) if match["high"] else MAX_TEXT if match["comma"] else low
        return min(high, low + self._extra)

    def _atom(self) -> str:
        one = self._next()
        match one:
            case "(":
                return self._group()
            case "[":
                return self._class()
            case "\\":
                return self._escape()
            case "^" | "$":
                return ""
            case ".":
                return "a"
        return one

    def _group(self) -> str:
        is_lookaround = self._pattern.startswith(("?=", "?!", "?<=", "?<!"), self.place)
        if is_lookaround:
            self.place = 1 + min(
                at for sign in "=!" if (at := self._pattern.find(sign, self.place, self.place + 3)) >= 0
            )
        elif (head := _GROUP.match(self._pattern, self.place)) is not None:
            self.place = head.end()
        number = len(self._groups)
        self._groups.append("")
        text = self.alternatives()
        if self._next() != ")":
            raise UnknownPattern(self._pattern)
        self._groups[number] = text
        return "" if is_lookaround else text

    def _escape(self) -> str:
        one = self._pattern[self.place]
        if one in _CLASSES:
            return _pick([self._named_class()], is_negated=False, spare="")
        if one in "bBAZz":
            self.place += 1
            return ""
        if one in "123456789":
            self.place += 1
            return self._groups[int(one) - 1]
        return self._character()

    def _class(self) -> str:
        """One character of `[…]`."""
        is_negated = self._take("^")
        tests: list[Callable[[str], bool]] = []
        spare = ""
        is_first = True
        while is_first or not self._take("]"):
            is_first = False
            if self._take("\\"):
                if self._pattern[self.place] in _CLASSES:
                    tests.append(self._named_class())
                    continue
                low = self._character()
            else:
                low = self._next()
            high = low
            if self._pattern[self.place] == "-" and self._pattern[self.place + 1] != "]":
                self.place += 1
                high = self._character() if self._take("\\") else self._next()
            spare = spare or low
            tests.append(lambda one, low=low, high=high: low <= one <= high)  # type: ignore[misc]
        return _pick(tests, is_negated=is_negated, spare=spare)

    def _named_class(self) -> Callable[[str], bool]:
        name = self._next()
        if name in "pP" and (match := _PROPERTY.match(self._pattern, self.place)):
            self.place = match.end()
        return _CLASSES[name]

    def _character(self) -> str:
        """The character that an escape names."""
        if match := _CODE.match(self._pattern, self.place):
            self.place = match.end()
            return chr(min(int(match["braced"] or match["four"] or match["two"], 16), 0xFFFF))
        one = self._next()
        return _ESCAPES.get(one, one)

    def _next(self) -> str:
        one = self._pattern[self.place]
        self.place += 1
        return one

    def _take(self, one: str) -> bool:
        is_next = self._pattern[self.place : self.place + 1] == one
        self.place += is_next
        return is_next


def _pick(tests: list[Callable[[str], bool]], *, is_negated: bool, spare: str) -> str:
    for one in chain(_FAVOURITES, map(chr, range(32, 127))):
        if any(test(one) for test in tests) != is_negated:
            return one
    return spare
