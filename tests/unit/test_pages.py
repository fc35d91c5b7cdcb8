"""The pages hang together: each is in the index, links lead somewhere, and files and names of the code exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INDEX = ROOT / "docs" / "README.md"
PAGES = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")] + sorted(
    INDEX.parent.glob("*.md")
)

_LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")
_HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
_FILE = re.compile(r"`((?:server|sql|tests|bench|docs|supabase)/[\w./-]*?\w(?:/|\.\w+))(?::(\w+))?`")
_NAME = re.compile(r"`([A-Za-z_]\w*)(?:\.([a-z_]\w*))?`")
_BOUND = re.compile(r"`([a-z_/]+\.py):(\w+)`")


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = _HEADING.findall(page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> list[tuple[Path, str]]:
    """Where the links of a page lead: file and anchor."""
    found = _LINK.findall(page.read_text(encoding="utf-8"))
    return [((page.parent / target).resolve() if target else page, anchor) for target, anchor in found]


def test_every_page_is_in_the_index() -> None:
    assert set(INDEX.parent.glob("*.md")) - {INDEX} - {target for target, _ in links(INDEX)} == set()


def test_the_readme_leads_to_the_index() -> None:
    assert INDEX in {target for target, _ in links(ROOT / "README.md")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    dead = [
        f"{target.name}#{anchor}"
        for target, anchor in links(page)
        if not target.exists() or (anchor and anchor not in anchors(target))
    ]
    assert dead == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_names_of_the_code_exist(page: Path) -> None:
    missing = [
        f"{file}:{name}"
        for file, name in _FILE.findall(page.read_text(encoding="utf-8"))
        if not (ROOT / file).exists() or name not in ((ROOT / file).read_text(encoding="utf-8") if name else "")
    ]
    assert missing == []


def test_every_limit_stands_where_the_table_says() -> None:
    bounds = _BOUND.findall((INDEX.parent / "limits.md").read_text(encoding="utf-8"))
    assert len(bounds) > 50
    missing = [
        f"server/{file}:{name}"
        for file, name in bounds
        if not re.search(rf"\b{name}\b", (ROOT / "server" / file).read_text(encoding="utf-8"))
    ]
    assert missing == []


def test_the_architecture_names_only_what_the_code_has() -> None:
    folders = [(ROOT / "server", "*.py"), (ROOT / "sql", "*.sql")]
    code = "".join(path.read_text(encoding="utf-8") for folder, kind in folders for path in folder.rglob(kind))
    known = set(re.findall(r"\w+", code))
    page = re.sub(
        r"^```.*?^```",
        "",
        (INDEX.parent / "architecture.md").read_text(encoding="utf-8"),
        flags=re.DOTALL | re.MULTILINE,
    )
    named = {part for name in _NAME.findall(page) if name[1] not in {"md", "toml"} for part in name if part}
    assert len(named) > 80
    assert named - known == set()
