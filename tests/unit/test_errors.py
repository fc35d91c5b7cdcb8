"""The error tree: every leaf has a sane status, a code, a title of its own, and a row in the documentation."""

import re
from pathlib import Path

import pytest

from server.errors import Code, Problem, RateLimited, Unauthenticated, Unavailable
from server.openapi.problems import problem_classes

PAGE = (Path(__file__).parents[2] / "docs" / "errors.md").read_text(encoding="utf-8")
PROBLEMS = list(problem_classes())
STATUSES_OF = {
    Code.VALIDATION_ERROR: {400, 408, 413, 415, 416, 422},
    Code.AUTH_ERROR: {401, 403},
    Code.NOT_FOUND: {404, 405, 410},
    Code.CONFLICT: {409, 422},
    Code.RATE_LIMITED: {429},
    Code.MODEL_ERROR: {502, 504},
    Code.SERVER_ERROR: {500, 503},
}

_ROW = re.compile(r"^\| `([A-Z_]+)` \| (\d{3}) \| `([^`]+)` \| [^|]+ \| [^|]+ \|$", re.MULTILINE)


def leaves(kind: type[Problem]) -> set[type[Problem]]:
    below = {leaf for child in kind.__subclasses__() if child.__module__ == "server.errors" for leaf in leaves(child)}
    return below or {kind}


def test_the_walk_finds_the_whole_tree() -> None:
    assert set(PROBLEMS) == leaves(Problem)


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.__name__)
def test_status_belongs_to_code(problem: type[Problem]) -> None:
    assert problem.status in STATUSES_OF[problem.code]


def test_no_two_errors_mean_the_same() -> None:
    meanings = [(problem.status, problem.code) for problem in PROBLEMS]
    assert len(set(meanings)) == len(meanings)


def test_the_documentation_lists_every_error_and_no_other() -> None:
    listed = {(code, int(status), title) for code, status, title in _ROW.findall(PAGE)}
    assert listed == {(str(problem.code), problem.status, problem.title) for problem in PROBLEMS}


def test_the_documentation_explains_every_code() -> None:
    assert [code for code in Code if f"`{code}`" not in PAGE] == []


@pytest.mark.parametrize(("seconds", "header"), [(0.0, "1"), (0.2, "1"), (1.0, "1"), (1.1, "2"), (90.0, "90")])
@pytest.mark.parametrize("kind", [RateLimited, Unavailable])
def test_a_delay_is_rounded_up_to_whole_seconds(
    kind: type[RateLimited | Unavailable], seconds: float, header: str
) -> None:
    assert kind("later", retry_after_s=seconds).headers["Retry-After"] == header


def test_failed_authentication_blames_the_token_only_where_one_was_sent() -> None:
    problem = Unauthenticated()
    assert problem.headers["WWW-Authenticate"] == "Bearer"
    problem.blame_token()
    assert problem.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'
