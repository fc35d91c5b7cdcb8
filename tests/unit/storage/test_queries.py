"""The loader of named SQL: what it sends, and what it refuses."""

from pathlib import Path

import pytest

from server.storage.queries import BadQueryFile, load_queries, sql_directory


def _write(directory: Path, text: str, *, name: str = "requests.sql") -> None:
    (directory / name).write_text(text, "utf-8")


def test_a_query_is_sent_without_header_purpose_and_semicolon(tmp_path: Path) -> None:
    _write(tmp_path, "-- name: get_request\n-- One row.\n-- By its id.\nSELECT id\nFROM requests\nWHERE id = $1;\n")
    assert load_queries(tmp_path)["get_request"] == "SELECT id\nFROM requests\nWHERE id = $1"


def test_a_comment_within_a_statement_stays(tmp_path: Path) -> None:
    _write(tmp_path, "-- name: get_request\n-- One row.\nSELECT id\n-- why; because\nFROM requests;\n")
    assert "-- why; because" in load_queries(tmp_path)["get_request"]


def test_queries_of_all_files_are_one_mapping(tmp_path: Path) -> None:
    _write(
        tmp_path,
        "-- What this file is for.\n\n-- name: get_one\n-- It.\nSELECT 1;\n\n-- name: get_two\n-- It.\nSELECT 2",
    )
    _write(tmp_path, "-- name: get_three\n-- It.\nSELECT 3;\n", name="more.sql")
    queries = load_queries(tmp_path)
    assert dict(queries) == {"get_one": "SELECT 1", "get_two": "SELECT 2", "get_three": "SELECT 3"}
    assert len(queries) == 3


def test_a_list_of_columns_stands_where_it_is_named(tmp_path: Path) -> None:
    _write(
        tmp_path,
        "-- columns: book_columns\n-- Of a book.\nid, title\n\n-- name: get_book\n-- It.\nSELECT @book_columns;",
    )
    assert dict(load_queries(tmp_path)) == {"get_book": "SELECT id, title"}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("SELECT 1;", "requests.sql:1: a statement without a name"),
        ("-- name: get_one\n-- It.\nSELECT 1;\nSELECT 2;", "a second statement follows 'get_one'"),
        (
            "-- name: get_one\n-- It.\nSELECT 1;\n\n-- name: get_one\n-- It.\nSELECT 2;",
            "requests.sql:5: the name 'get_one'",
        ),
        ("-- name: get_one\nSELECT 1;", "'get_one' needs a comment line"),
        ("-- name: get_one\n-- It.\n", "'get_one' has no statement"),
        ("-- name: Get One\n-- It.\nSELECT 1;", "'Get One' is not a name"),
        ("-- name:\n-- It.\nSELECT 1;", "'' is not a name"),
        ("-- only a comment", "no query found"),
        ("-- name: get_one\n-- It.\nSELECT @lost_columns;", "'get_one' uses @lost_columns"),
    ],
)
def test_a_file_that_breaks_the_rules_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    _write(tmp_path, text)
    with pytest.raises(BadQueryFile, match="^[^\n]*" + complaint.replace("(", r"\(")):
        load_queries(tmp_path)


def test_the_same_name_in_two_files_is_refused(tmp_path: Path) -> None:
    _write(tmp_path, "-- name: get_one\n-- It.\nSELECT 1;")
    _write(tmp_path, "-- name: get_one\n-- It.\nSELECT 1;", name="again.sql")
    with pytest.raises(BadQueryFile, match="get_one"):
        load_queries(tmp_path)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadQueryFile, match="installed"):
        load_queries(tmp_path / "nowhere")


def test_queries_cannot_be_changed(tmp_path: Path) -> None:
    _write(tmp_path, "-- name: get_one\n-- It.\nSELECT 1;")
    queries = load_queries(tmp_path)
    with pytest.raises(TypeError):
        queries["get_one"] = "DROP TABLE requests"  # type: ignore[index]


def test_the_queries_of_this_program_load() -> None:
    assert "record_migration" in load_queries(sql_directory() / "queries")
